"""Names of the released Co-DETR weights (mmdetection 2.x and 3.x format) in terms of ours.

mmdetection's own Deformable-DETR is known, too; its 3.x keeps the transformer at the top instead of
in the head. Backbones and necks of our own keep their tables in their files (`OFFICIAL_RENAMES`);
what is here is detectron2's ResNet and everything after the neck.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType

from torch import Tensor, nn

from co_detr.modeling.aux_heads.dense import DenseHead
from co_detr.modeling.detector import CoDETR
from co_detr.modeling.transformer.decoder import DeformableDecoder

from .rename import Rename, SubmoduleRenames, rename
from .wrappers import prefix_to_strip, without_prefix

# Of detectron2's ResNet, which has no place of its own for them.
RESNET_RENAMES = [
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    *(
        row
        for layer in (1, 2, 3, 4)
        for row in (
            (rf"^layer{layer}\.(\d+)\.conv(\d)\.", rf"res{layer + 1}.\1.conv\2."),
            (rf"^layer{layer}\.(\d+)\.bn(\d)\.", rf"res{layer + 1}.\1.conv\2.norm."),
            (rf"^layer{layer}\.(\d+)\.downsample\.0\.", rf"res{layer + 1}.\1.shortcut."),
            (rf"^layer{layer}\.(\d+)\.downsample\.1\.", rf"res{layer + 1}.\1.shortcut.norm."),
        )
    ),
]

_HEAD = r"(?:query_head|bbox_head)\."
_T = rf"(?:{_HEAD}transformer\.)?"
_LAYER = r"(encoder|decoder)\.layers\.(\d+)\."
_SOURCES = "query_sources"

TRANSFORMER = [
    Rename(_T + r"level_embeds?", r"encoder.level_embed"),
    Rename(
        _T + r"encoder\.layers\.(\d+)\.(?:attentions\.0|self_attn)\.(.+)",
        r"encoder.layers.\1.attention.\2",
    ),
    Rename(_T + r"encoder\.layers\.(\d+)\.norms\.0\.(\w+)", r"encoder.layers.\1.attention_norm.\2"),
    Rename(_T + r"encoder\.layers\.(\d+)\.norms\.1\.(\w+)", r"encoder.layers.\1.ffn_norm.\2"),
    Rename(
        _T + r"decoder\.layers\.(\d+)\.(?:attentions\.0|self_attn)\.attn\.(.+)",
        r"decoder.layers.\1.self_attention.\2",
    ),
    Rename(
        _T + r"decoder\.layers\.(\d+)\.(?:attentions\.1|cross_attn)\.(.+)",
        r"decoder.layers.\1.cross_attention.\2",
    ),
    Rename(_T + r"decoder\.layers\.(\d+)\.norms\.0\.(\w+)", r"decoder.layers.\1.self_norm.\2"),
    Rename(_T + r"decoder\.layers\.(\d+)\.norms\.1\.(\w+)", r"decoder.layers.\1.cross_norm.\2"),
    Rename(_T + r"decoder\.layers\.(\d+)\.norms\.2\.(\w+)", r"decoder.layers.\1.ffn_norm.\2"),
    Rename(_T + _LAYER + r"ffn(?:s\.0)?\.layers\.0\.0\.(\w+)", r"\1.layers.\2.ffn.0.\3"),
    Rename(_T + _LAYER + r"ffn(?:s\.0)?\.layers\.1\.(\w+)", r"\1.layers.\2.ffn.2.\3"),
    Rename(_T + r"decoder\.ref_point_head\.(\d+)\.(\w+)", r"decoder.position_mlp.\1.\2"),
    Rename(_T + r"decoder\.norm\.(\w+)", r"decoder.norm.\1"),
    Rename(_T + r"(?:enc_output|memory_trans_fc)\.(\w+)", r"proposals.output.\1"),
    Rename(_T + r"(?:enc_output|memory_trans)_norm\.(\w+)", r"proposals.output_norm.\1"),
    Rename(_T + r"pos_trans(?:_fc)?\.(\w+)", rf"{_SOURCES}.matching.encode.linear.\1"),
    Rename(_T + r"pos_trans_norm\.(\w+)", rf"{_SOURCES}.matching.encode.norm.\1"),
    Rename(_T + r"query_embed\.weight", rf"{_SOURCES}.matching.content.weight"),
    Rename(_T + r"head_pos_embed\.weight", rf"{_SOURCES}.customized.head_position"),
    Rename(_T + r"aux_pos_trans\.(\d+)\.(\w+)", rf"{_SOURCES}.customized.encode.\1.linear.\2"),
    Rename(_T + r"aux_pos_trans_norm\.(\d+)\.(\w+)", rf"{_SOURCES}.customized.encode.\1.norm.\2"),
    Rename(_T + r"pos_feats_trans\.(\d+)\.(\w+)", rf"{_SOURCES}.customized.feature_linear.\1.\2"),
    Rename(_T + r"pos_feats_norm\.(\d+)\.(\w+)", rf"{_SOURCES}.customized.feature_norm.\1.\2"),
    Rename(
        _HEAD + r"(?:dn_generator\.)?label_embedding\.weight",
        rf"{_SOURCES}.denoising.label_embedding.weight",
    ),
    Rename(r"query_head\.downsample\.0\.(\w+)", r"pyramid.extra.0.\1"),
    Rename(r"query_head\.downsample\.1\.(\w+)", r"pyramid.extra.0.norm.\1"),
    Rename(_HEAD + r"cls_branches\.(\d+)\.(\w+)", r"decoder.class_branches.\1.\2"),
    Rename(_HEAD + r"reg_branches\.(\d+)\.(.+)", r"decoder.box_branches.\1.\2"),
]

FASTER_RCNN = [
    Rename(r"rpn_head\.rpn_conv\.(\w+)", r"aux_heads.rcnn.rpn.conv.\1"),
    Rename(r"rpn_head\.rpn_cls\.(\w+)", r"aux_heads.rcnn.rpn.objectness_logits.\1"),
    Rename(r"rpn_head\.rpn_reg\.(\w+)", r"aux_heads.rcnn.rpn.anchor_deltas.\1"),
    Rename(
        r"roi_head\.0\.bbox_head\.shared_fcs\.(\d+)\.(\w+)", r"aux_heads.rcnn.box_head.fcs.\1.\2"
    ),
    Rename(
        r"roi_head\.0\.bbox_head\.shared_convs\.(\d+)\.conv\.(\w+)",
        r"aux_heads.rcnn.box_head.convs.\1.\2",
    ),
    Rename(
        r"roi_head\.0\.bbox_head\.shared_convs\.(\d+)\.gn\.(\w+)",
        r"aux_heads.rcnn.box_head.convs.\1.norm.\2",
    ),
    Rename(r"roi_head\.0\.bbox_head\.fc_cls\.(\w+)", r"aux_heads.rcnn.box_head.cls_score.\1"),
    Rename(r"roi_head\.0\.bbox_head\.fc_reg\.(\w+)", r"aux_heads.rcnn.box_head.bbox_pred.\1"),
]

MASK_RCNN = [
    Rename(
        r"roi_head\.0\.mask_head\.convs\.(\d+)\.conv\.(\w+)",
        r"aux_heads.rcnn.mask_head.convs.\1.\2",
    ),
    Rename(r"roi_head\.0\.mask_head\.upsample\.(\w+)", r"aux_heads.rcnn.mask_head.upsample.\1"),
    Rename(r"roi_head\.0\.mask_head\.conv_logits\.(\w+)", r"aux_heads.rcnn.mask_head.predictor.\1"),
]

_M = r"mask_head\."
_STAGE = r"mask_head\.stages\.(\d+)\."
INSTANCE_MASK = [
    Rename(
        _M + r"(instance|semantic)_convs\.(\d+)\.conv\.(\w+)",
        r"instance_mask.mask_head.\1_convs.\2.\3",
    ),
    Rename(
        _M + r"(instance|semantic)_convs\.(\d+)\.norm_layer\.(\w+)",
        r"instance_mask.mask_head.\1_convs.\2.norm.\3",
    ),
    Rename(
        _STAGE + r"semantic_transform_in\.(\w+)",
        r"instance_mask.mask_head.stages.\1.semantic_in.\2",
    ),
    Rename(_STAGE + r"fuse_conv\.0\.(\w+)", r"instance_mask.mask_head.stages.\1.reduce.\2"),
    *(
        Rename(
            _STAGE + rf"fuse_conv\.1\.dilation_conv_{i + 1}\.conv\.(\w+)",
            rf"instance_mask.mask_head.stages.\1.dilated.{i}.\2",
        )
        for i in range(3)
    ),
    Rename(
        _STAGE + r"fuse_conv\.1\.merge_conv\.conv\.(\w+)",
        r"instance_mask.mask_head.stages.\1.merge.\2",
    ),
    Rename(_STAGE + r"fuse_transform_out\.(\w+)", r"instance_mask.mask_head.stages.\1.out.\2"),
    Rename(
        _M + r"stage_instance_logits\.(\d+)\.(\w+)", r"instance_mask.mask_head.predictors.\1.\2"
    ),
    Rename(r"mask_iou_head\.convs\.(\d+)\.conv\.(\w+)", r"instance_mask.iou_head.convs.\1.\2"),
    Rename(
        r"mask_iou_head\.convs\.(\d+)\.norm_layer\.(\w+)",
        r"instance_mask.iou_head.convs.\1.norm.\2",
    ),
    Rename(r"mask_iou_head\.fcs\.(\d+)\.(\w+)", r"instance_mask.iou_head.fcs.\1.\2"),
    Rename(r"mask_iou_head\.fc_mask_iou\.(\w+)", r"instance_mask.iou_head.predictor.\1"),
]


def dense_head(index: int, name: str) -> list[Rename]:
    """The rows of a released dense head (ATSS, FCOS, GFL, PAA, RetinaNet).

    Args:
        index: its place among the dense heads of the released model.
        name: of our auxiliary head.
    """
    theirs, ours = rf"bbox_head\.{index}\.", f"aux_heads.{name}"
    towers = [
        row
        for tower, role in (("cls", "class"), ("reg", "box"))
        for row in (
            Rename(theirs + rf"{tower}_convs\.(\d+)\.conv\.(\w+)", rf"{ours}.{role}_tower.\1.\2"),
            Rename(
                theirs + rf"{tower}_convs\.(\d+)\.gn\.(\w+)", rf"{ours}.{role}_tower.\1.norm.\2"
            ),
            Rename(
                theirs + rf"(?:atss|conv|gfl|retina)_{tower}\.(\w+)", rf"{ours}.{role}_predictor.\1"
            ),
        )
    ]
    return [
        *towers,
        Rename(theirs + r"(?:atss|conv)_centerness\.(\w+)", rf"{ours}.quality_predictor.\1"),
        Rename(theirs + r"scales\.(\d+)\.scale", rf"{ours}.scales.\1"),
        Rename(theirs + r"integral\.project", None),  # 0, 1, 2, ...
    ]


# Normalization of the images, which is in our configs.
PREPROCESSOR = [Rename(r"data_preprocessor\..+", None)]

_PARTS = r"(backbone|neck|query_head|bbox_head|rpn_head|roi_head|mask_head|data_preprocessor)\."


def is_official(names: Iterable[str]) -> bool:
    """Whether names are those of a DETR of the release or of mmdetection, wrapped or not."""
    return any(re.search(rf"(^|\.){_HEAD}(transformer|cls_branches)\.", name) for name in names)


def official_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released tensors without what a training framework put before all of their names."""
    prefix = prefix_to_strip(tensors, lambda name: re.match(_PARTS, name) is not None)
    return without_prefix(tensors, prefix)


def official_table(model: CoDETR) -> list[Rename | SubmoduleRenames]:
    """The rows that turn released names into the names of a given `CoDETR` model."""
    backbone = SubmoduleRenames("backbone.", RESNET_RENAMES)
    if hasattr(owner := _module_of(model.backbone), "OFFICIAL_RENAMES"):
        backbone = SubmoduleRenames(
            "backbone.",
            owner.OFFICIAL_RENAMES,
            getattr(owner, "OFFICIAL_DROPS", ()),
            getattr(owner, "OFFICIAL_TRANSFORMS", ()),
        )
    neck = SubmoduleRenames("neck.", getattr(_module_of(model.neck), "OFFICIAL_RENAMES", ()))
    dense = [name for name, head in model.aux_heads.items() if isinstance(head, DenseHead)]
    heads = [*FASTER_RCNN, *MASK_RCNN, *INSTANCE_MASK]
    for index, name in enumerate(dense or ["atss"]):
        heads += dense_head(index, name)
    own = [*_query_rows(model), *_branch_rows(model), *PREPROCESSOR]
    return [backbone, neck, *own, *TRANSFORMER, *heads]


def _query_rows(model: CoDETR) -> list[Rename]:
    """The learned part of the matching queries, and the level that only auxiliary heads read."""
    embedding = "content" if model.proposals is not None else "embedding"
    rows = [
        # without proposals it is position and content of each query, one behind the other, in
        # both worlds
        Rename(rf"(?:{_HEAD})?query_embedding\.weight", rf"{_SOURCES}.matching.{embedding}.weight"),
        Rename(
            _T + r"reference_points(?:_fc)?\.(\w+)", rf"{_SOURCES}.matching.reference_points.\1"
        ),
    ]
    if model.pyramid is None:  # the release has it whether there are heads or not
        rows.append(Rename(r"query_head\.downsample\.\d\.\w+", None))
    return rows


def _branch_rows(model: CoDETR) -> list[Rename]:
    """The branches of the encoder, which the release keeps behind those of the decoder; and, where
    nothing is refined, one branch for all layers, which it writes once for each."""
    rows: list[Rename] = []
    decoder = model.decoder
    if not isinstance(decoder, DeformableDecoder):
        return rows  # the release has no other
    if model.proposals is not None:
        last = len(decoder.layers)
        rows += [
            Rename(_HEAD + rf"cls_branches\.{last}\.(\w+)", r"proposals.class_branch.\1"),
            Rename(_HEAD + rf"reg_branches\.{last}\.(.+)", r"proposals.box_branch.\1"),
        ]
    if not decoder.refine:
        rows += [
            Rename(
                _HEAD + r"cls_branches\.\d+\.(\w+)", r"decoder.class_branches.0.\1", shared=True
            ),
            Rename(_HEAD + r"reg_branches\.\d+\.(.+)", r"decoder.box_branches.0.\1", shared=True),
        ]
    return rows


def _module_of(part: nn.Module) -> ModuleType:
    """The file that defines a part; tables of official names are kept there."""
    return sys.modules[type(part).__module__]


def convert_official(source: Mapping[str, Tensor], model: CoDETR) -> dict[str, Tensor]:
    """Rename a released state dict for `model`, strictly.

    Args:
        source: tensors under the released names.
        model: a `CoDETR` built from the config that belongs to the release (meta device will do).

    Raises:
        ConversionError: anything is left over on either side; see `rename`.
    """
    return rename(source, official_table(model), model.state_dict())[0]
