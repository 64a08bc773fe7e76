"""Names of DETRs as Hugging Face `transformers` publishes them in terms of ours.

Covered are `DeformableDetrForObjectDetection`, `ConditionalDetrForObjectDetection` and
`DabDetrForObjectDetection` on a ResNet, with the names of version 4 and of version 5. They are
models without auxiliary heads: convert for a config with K = 0; a model with heads can start from
the result.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from co_detr.modeling.detector import CoDETR
from co_detr.modeling.neck import ChannelMapper
from co_detr.modeling.transformer.conditional_decoder import ConditionalDecoder
from co_detr.modeling.transformer.dab_decoder import DABDecoder
from co_detr.modeling.transformer.decoder import DeformableDecoder

from .official import RESNET_RENAMES
from .rename import Rename, SubmoduleRenames, rename

# Models published for COCO have a row per category id, 0 to 90, of which these are no category.
COCO_ROWS = 91
COCO_UNUSED_IDS = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

_BLOCK = r"^encoder\.stages\.{stage}\.layers\.(\d+)\."
_RESNET = [
    *RESNET_RENAMES,  # timm's names
    (r"^embedder\.embedder\.convolution\.", "stem.conv1."),
    (r"^embedder\.embedder\.normalization\.", "stem.conv1.norm."),
    *(
        (_BLOCK.format(stage=stage) + theirs, rf"res{stage + 2}.\1." + ours)
        for stage in range(4)
        for theirs, ours in (
            (r"shortcut\.convolution\.", "shortcut."),
            (r"shortcut\.normalization\.", "shortcut.norm."),
            *((rf"layer\.{i}\.convolution\.", f"conv{i + 1}.") for i in range(3)),
            *((rf"layer\.{i}\.normalization\.", f"conv{i + 1}.norm.") for i in range(3)),
        )
    ),
]

_ENCODER = r"model\.encoder\.layers\.(\d+)\."
_DECODER = r"model\.decoder\.layers\.(\d+)\."
_MATCHING = "query_sources.matching."


def _mlp(theirs: str, ours: str, layers: int) -> list[Rename]:
    """Of linear layers with ReLUs between, which are numbered here and not there."""
    return [Rename(rf"{theirs}\.layers\.{i}\.(\w+)", rf"{ours}.{2 * i}.\1") for i in range(layers)]


# What all three call the same, up to the version.
COMMON: list[Rename | SubmoduleRenames] = [
    SubmoduleRenames("backbone.", _RESNET),
    Rename(_ENCODER + r"self_attn\.(in_proj_\w+)", r"encoder.layers.\1.attention.\2"),
    Rename(
        _ENCODER + r"self_attn\.(?:o|out)_proj\.(\w+)", r"encoder.layers.\1.attention.out_proj.\2"
    ),
    Rename(_ENCODER + r"self_attn_layer_norm\.(\w+)", r"encoder.layers.\1.attention_norm.\2"),
    Rename(_ENCODER + r"(?:mlp\.)?fc1\.(\w+)", r"encoder.layers.\1.ffn.0.\2"),
    Rename(_ENCODER + r"(?:mlp\.)?fc2\.(\w+)", r"encoder.layers.\1.ffn.2.\2"),
    Rename(_ENCODER + r"final_layer_norm\.(\w+)", r"encoder.layers.\1.ffn_norm.\2"),
    Rename(_DECODER + r"self_attn_layer_norm\.(\w+)", r"decoder.layers.\1.self_norm.\2"),
    Rename(_DECODER + r"encoder_attn_layer_norm\.(\w+)", r"decoder.layers.\1.cross_norm.\2"),
    Rename(_DECODER + r"(?:mlp\.)?fc1\.(\w+)", r"decoder.layers.\1.ffn.0.\2"),
    Rename(_DECODER + r"(?:mlp\.)?fc2\.(\w+)", r"decoder.layers.\1.ffn.2.\2"),
    Rename(_DECODER + r"(?:mlp\.)?final_layer_norm\.(\w+)", r"decoder.layers.\1.ffn_norm.\2"),
]

DEFORMABLE = [
    Rename(r"model\.level_embed", "encoder.level_embed"),
    Rename(
        _ENCODER + r"self_attn\.(sampling_offsets|attention_weights|value_proj|output_proj)\.(\w+)",
        r"encoder.layers.\1.attention.\2.\3",
    ),
    Rename(_DECODER + r"self_attn\.(in_proj_\w+)", r"decoder.layers.\1.self_attention.\2"),
    Rename(
        _DECODER + r"self_attn\.(?:o|out)_proj\.(\w+)",
        r"decoder.layers.\1.self_attention.out_proj.\2",
    ),
    Rename(_DECODER + r"encoder_attn\.(.+)", r"decoder.layers.\1.cross_attention.\2"),
    Rename(r"model\.query_position_embeddings\.weight", _MATCHING + "embedding.weight"),
    Rename(r"model\.reference_points\.(\w+)", _MATCHING + r"reference_points.\1"),
    Rename(r"model\.enc_output\.(\w+)", r"proposals.output.\1"),
    Rename(r"model\.enc_output_norm\.(\w+)", r"proposals.output_norm.\1"),
    Rename(r"model\.pos_trans\.(\w+)", _MATCHING + r"encode.linear.\1"),
    Rename(r"model\.pos_trans_norm\.(\w+)", _MATCHING + r"encode.norm.\1"),
]

# (their projections in version 5, in version 4 and in DAB-DETR, ours)
_SELF_ATTENTION = [
    ("q_content_proj", "qcontent_proj", "query_content_proj", "query_content"),
    ("q_pos_proj", "qpos_proj", "query_pos_proj", "query_position"),
    ("k_content_proj", "kcontent_proj", "key_content_proj", "key_content"),
    ("k_pos_proj", "kpos_proj", "key_pos_proj", "key_position"),
    ("v_proj", "v_proj", "value_proj", "value"),
]
_CROSS_ATTENTION = [
    *_SELF_ATTENTION,
    ("q_pos_sine_proj", "qpos_sine_proj", "query_pos_sine_proj", "query_spatial"),
]

SINGLE_SCALE = [
    Rename(r"model\.input_projection\.(\w+)", r"neck.convs.0.\1"),
    Rename(r"model\.decoder\.layernorm\.(\w+)", r"decoder.norm.\1"),
    *_mlp(r"model\.decoder\.query_scale", "decoder.spatial_scale", 2),
    *_mlp("bbox_predictor", "decoder.box_branch", 3),
]

CONDITIONAL = [
    *SINGLE_SCALE,
    *(
        Rename(
            _DECODER + rf"(?:{block}\.{new}|{short}_{old})\.(\w+)",
            rf"decoder.layers.\1.{ours}_attention.{projection}.\2",
        )
        for block, short, ours, rows in (
            ("self_attn", "sa", "self", _SELF_ATTENTION),
            ("encoder_attn", "ca", "cross", _CROSS_ATTENTION),
        )
        for new, old, _, projection in rows
    ),
    *(
        Rename(
            _DECODER + rf"{block}\.(?:o|out)_proj\.(\w+)",
            rf"decoder.layers.\1.{ours}_attention.output.\2",
        )
        for block, ours in (("self_attn", "self"), ("encoder_attn", "cross"))
    ),
    Rename(r"model\.query_position_embeddings\.weight", _MATCHING + "embedding.weight"),
    *_mlp(r"model\.decoder\.ref_point_head", _MATCHING + "points", 2),
    Rename(r"class_labels_classifier\.(\w+)", r"decoder.class_branch.\1"),
]

DAB = [
    *SINGLE_SCALE,
    Rename(_ENCODER + r"activation_fn\.weight", r"encoder.layers.\1.ffn.1.weight"),
    *_mlp(r"model\.encoder\.query_scale", "encoder.position_scale", 2),
    *(
        Rename(
            _DECODER + rf"{block}_attn\.{block}_attn_{theirs}\.(\w+)",
            rf"decoder.layers.\1.{block}_{ours}.\2",
        )
        for block, rows in (("self", _SELF_ATTENTION), ("cross", _CROSS_ATTENTION))
        for theirs, ours in [
            *((theirs, f"attention.{projection}") for _, _, theirs, projection in rows),
            ("layer_norm", "norm"),
        ]
    ),
    Rename(
        _DECODER + r"(self|cross)_attn\.\2_attn\.output_proj\.(\w+)",
        r"decoder.layers.\1.\2_attention.output.\3",
    ),
    Rename(_DECODER + r"mlp\.activation_fn\.weight", r"decoder.layers.\1.ffn.1.weight"),
    *_mlp(r"model\.decoder\.ref_point_head", "decoder.position_mlp", 2),
    *_mlp(r"model\.decoder\.ref_anchor_head", "decoder.attended_size", 2),
    Rename(r"model\.query_refpoint_embeddings\.weight", _MATCHING + "anchors.weight"),
    Rename(r"class_embed\.(\w+)", r"decoder.class_branch.\1"),
]


def transformers_table(model: CoDETR) -> list[Rename | SubmoduleRenames]:
    """The rows that turn names made by `tidy` into the names of a given `CoDETR` model.

    Raises:
        ValueError: the decoder is of none of the three kinds, or the neck is another than theirs.
    """
    decoder = model.decoder
    if isinstance(decoder, DABDecoder):
        return [*COMMON, *DAB]
    if isinstance(decoder, ConditionalDecoder):
        return [*COMMON, *CONDITIONAL]
    if not isinstance(decoder, DeformableDecoder) or decoder.position_mlp is not None:
        raise ValueError(
            "weights of transformers fit Deformable-DETR, Conditional-DETR and DAB-DETR, but the "
            f"config's decoder is {type(decoder).__name__} as in DINO"
            if isinstance(decoder, DeformableDecoder)
            else f"no weights of transformers are known for {type(decoder).__name__}"
        )
    return [*COMMON, *DEFORMABLE, *_neck_rows(model), *_branch_rows(len(decoder.layers))]


def _neck_rows(model: CoDETR) -> list[Rename]:
    """Levels are counted through, those from backbone maps and the extra ones."""
    neck = model.neck
    if not isinstance(neck, ChannelMapper):
        raise ValueError(
            "weights of transformers fit models with the neck ChannelMapper, but the config's neck "
            f"is {type(neck).__name__}"
        )
    mapped, extra = len(neck.convs), len(neck.extra_convs)
    levels = [f"convs.{i}" for i in range(mapped)] + [f"extra_convs.{i}" for i in range(extra)]
    return [
        Rename(rf"model\.input_proj\.{index}\.{part}\.(\w+)", rf"neck.{level}{ours}.\1")
        for index, level in enumerate(levels)
        for part, ours in ((0, ""), (1, ".norm"))
    ]


def _branch_rows(num_layers: int) -> list[Rename]:
    """The branches of a two-stage model's proposals are counted after those of the layers."""
    targets = [
        *((f"decoder.class_branches.{i}", f"decoder.box_branches.{i}") for i in range(num_layers)),
        ("proposals.class_branch", "proposals.box_branch"),
    ]
    return [
        row
        for index, (class_branch, box_branch) in enumerate(targets)
        for row in (
            Rename(rf"class_embed\.{index}\.(\w+)", rf"{class_branch}.\1"),
            *_mlp(rf"bbox_embed\.{index}", box_branch, 3),
        )
    ]


def tidy(source: Mapping[str, Tensor], model: CoDETR) -> dict[str, Tensor]:
    """Bring a state dict to one tensor per tensor of ours.

    Query, key and value projections become one; tensors that stand there several times, shared by
    parts of their model, stand here once; of 91 classes, one per id, the 80 of COCO are kept.

    Args:
        source: tensors by the names of `transformers`.
        model: a `CoDETR`, of which only the structure is read.

    Raises:
        ValueError: copies of what should be one tensor differ.
    """
    result: dict[str, Tensor] = {}
    source = _without_copies(source, model)
    for name, tensor in source.items():
        part = re.fullmatch(r"(.+\.self_attn\.)([qkv])_proj\.(weight|bias)", name)
        parts = [f"{part[1]}{x}_proj.{part[3]}" for x in "qkv"] if part else []
        if part and all(other in source for other in parts):
            packed = f"{part[1]}in_proj_{part[3]}"
            if packed not in result:
                result[packed] = torch.cat([source[other] for other in parts])
        else:
            result[name] = tensor
    if model.num_classes == COCO_ROWS - len(COCO_UNUSED_IDS):
        rows = [i for i in range(COCO_ROWS) if i not in COCO_UNUSED_IDS]
        for name, tensor in result.items():
            if name.startswith(("class_embed.", "class_labels_")) and len(tensor) == COCO_ROWS:
                result[name] = tensor[rows]
    return result


def _without_copies(source: Mapping[str, Tensor], model: CoDETR) -> dict[str, Tensor]:
    shares_branches = not getattr(model.decoder, "refine", True)
    kept: dict[str, Tensor] = {}
    for original, tensor in source.items():
        name = re.sub(
            r"^model\.backbone\.(conv_encoder\.)?model\.(_backbone\.)?", "backbone.", original
        )
        name = re.sub(r"^model\.decoder\.(bbox|class)_embed\.", r"\1_embed.", name)
        if isinstance(model.decoder, ConditionalDecoder):
            name = re.sub(r"^bbox_embed\.", "bbox_predictor.", name)
        if shares_branches:
            name = re.sub(r"^(bbox|class)_embed\.\d+\.", r"\1_embed.0.", name)
        if name in kept and not torch.equal(kept[name], tensor):
            raise ValueError(
                f"{original} is no copy of the other tensors that would all become {name}; is this "
                "the config that the checkpoint was trained with?"
            )
        kept[name] = tensor
    return kept


def convert_transformers(source: Mapping[str, Tensor], model: CoDETR) -> dict[str, Tensor]:
    """Rename a state dict of `transformers` for `model`, strictly.

    Args:
        source: tensors by the names of `transformers`.
        model: a `CoDETR` without auxiliary heads.

    Raises:
        ConversionError: anything is left over on either side; see `rename`.
        ValueError: see `transformers_table` and `tidy`.
    """
    return rename(tidy(source, model), transformers_table(model), model.state_dict())[0]
