"""Guesses why weights do not fit a model, and says what to do about it."""

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from co_detr import model_zoo
from co_detr.modeling.detector import CoDETR

from .class_layers import class_layer, num_classes_of
from .official import convert_official, is_official, official_names
from .rename import ConversionError

if TYPE_CHECKING:
    from .matching import Comparison

_PLACEHOLDER = "configs/<the config it belongs to>.py"
_CLASSES_OF_RELEASES = {80: "", 365: "o365", 1203: "lvis"}
_SWIN = {(96, 6): "swin_tiny", (96, 18): "swin_small", (128, 18): "swin_base"}
_SWIN |= {(192, 18): "swin_large"}
# What the schedules of released files are called there, and in our names of configs.
_SCHEDULES = {"1x": "12ep", "2x": "24ep", "3x": "36ep", "16e": "16ep"}
_OTHER_FAMILIES = [
    (r"(transformer\.|class_embed\.|bbox_embed\.)", "of a DETR, DINO or detrex"),
    (r"(rpn_head|roi_head|bbox_head)\.", "of another mmdetection"),
    (r"(proposal_generator|roi_heads)\.", "of a detectron2"),
    (r"(encoder\.layers?|decoder\.layers?|class_labels_classifier|bbox_predictor)\.", "of another"),
    (r"(conv1|layer[1-4]|fc|stages|blocks|patch_embed)\.", "of a classification"),
]


def hint_for(
    comparison: "Comparison",
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    file: str = "SRC",
    config: str | None = None,
) -> str:
    """The likely reason why a file does not fit, and the remedy; "" if nothing is known.

    Args:
        comparison: of `tensors` and `model`.
        tensors: of the file.
        file: its path, for commands.
        config: the path or name of the model's config, where it is known.
    """
    if is_official(tensors):
        return (
            "This is an unconverted file of the authors or of mmdetection. Convert it with\n    "
            + conversion_command(tensors, model, file, config)
        )
    if comparison.fits:
        return ""
    if not (comparison.missing or comparison.misshapen):
        return "The training that wrote it had diverged: take an earlier checkpoint"
    if not comparison.fitting:
        return _foreign(tensors)
    if all(name.startswith("backbone.") for name in [*comparison.fitting, *comparison.unexpected]):
        return "These are weights of a backbone alone, from which only a training can start"
    return "; ".join(_differences(comparison, tensors)) or (
        "Was it trained with another config? Give the one it was trained with"
    )


def conversion_command(
    tensors: Mapping[str, Tensor], model: nn.Module, file: str, config: str | None
) -> str:
    """The command that converts a released file, with the config that it most likely needs."""
    tensors = official_names(tensors)
    classes = next(
        (len(t) for n, t in tensors.items() if re.search(r"head\.cls_branches\.0\.bias$", n)), None
    )
    others: list[str] = []
    if not (config and _converts(tensors, model)):
        candidates = _configs_like(tensors, Path(file).stem, classes)
        config, *others = candidates or [_PLACEHOLDER]
    command = ["co-detr", "convert", file]
    command += [f"{Path(file).stem}_converted.safetensors", "--config-file", config]
    words = [word if word == _PLACEHOLDER else shlex.quote(word) for word in command]
    if others and classes is not None and classes not in _CLASSES_OF_RELEASES:
        words.append(f"model.num_classes={classes}")
    line = " ".join(words)
    return line + (f"\n    or with {', '.join(others[:4])}, if that is its name" if others else "")


def _converts(tensors: Mapping[str, Tensor], model: nn.Module) -> bool:
    if not isinstance(model, CoDETR):
        return False
    try:
        convert_official(tensors, model)
    except (ConversionError, AttributeError, KeyError):
        return False
    return True


def _configs_like(tensors: Mapping[str, Tensor], stem: str, classes: int | None) -> list[str]:
    """Paths of configs of the same family, backbone and classes; likeliest first."""
    backbone = _backbone(tensors)
    if backbone is None:
        return []
    has = lambda part: any(part in name for name in tensors)  # noqa: E731
    dino = has("query_head.label_embedding") or has("transformer.ref_point_head")
    masks = "instance" if dino and has("mask_head.") else "mask" if has("mask_head.") else None
    wanted = {"co_dino" if dino else "deformable_detr", backbone}
    dataset = _CLASSES_OF_RELEASES.get(classes) if classes is not None else None
    wanted |= {word for word in (dataset, masks) if word}
    if has("encoder.layers.8."):
        wanted.add("9enc")
    if not dino and backbone == "r50":
        heads = has("roi_head.") + has("bbox_head.0.")
        wanted.add("/deformable" if has("reference_points") else ("_k0", "_k1", "/co_")[heads])
    unwanted = {"digits", "lvis", "instance", "mask", "o365_", "9enc", "_k0", "_k1"} - wanted
    words = set(re.split(r"[_\-.]", stem))
    words |= {ours for theirs, ours in _SCHEDULES.items() if theirs in words}
    found = []
    for name in model_zoo.list_configs():
        if all(word in name for word in wanted) and not any(word in name for word in unwanted):
            parts = set(re.split(r"[_/]", name))
            found.append((-len(words & parts), len(parts - words), f"configs/{name}.py"))
    return [path for *_, path in sorted(found)]


def _backbone(tensors: Mapping[str, Tensor]) -> str | None:
    """The backbone of a released file as our configs call it."""
    blocks = {m[1] for n in tensors if (m := re.match(r"backbone\.layer3\.(\d+)\.", n))}
    if blocks:
        return "r50" if len(blocks) == 6 else None
    patch = tensors.get("backbone.patch_embed.projection.weight")
    patch = tensors.get("backbone.patch_embed.proj.weight") if patch is None else patch
    if patch is None:
        return None
    deep = re.compile(r"backbone\.(?:stages|layers)\.2\.blocks\.(\d+)\.")
    depth = len({m[1] for n in tensors if (m := deep.match(n))})
    return _SWIN.get((len(patch), depth)) if depth else {1024: "vit_large"}.get(len(patch))


def _foreign(tensors: Mapping[str, Tensor]) -> str:
    names = list(tensors)
    kind = next(
        (kind for pattern, kind in _OTHER_FAMILIES if any(re.match(pattern, n) for n in names)),
        "of another",
    )
    return f"Its names ({', '.join(names[:3])}, ...) are those {kind} model: it cannot be used here"


def _differences(comparison: "Comparison", tensors: Mapping[str, Tensor]) -> Iterable[str]:
    """What the differences have in common, in the words of a config."""
    misshapen = {entry.name: entry for entry in comparison.misshapen}
    lacking = [*comparison.missing, *misshapen]
    by_class = [name for name in misshapen if class_layer(name)]
    if by_class and (classes := num_classes_of(tensors)):
        yield f"It is for {classes} classes: set model.num_classes={classes} to run it as it is"
    parts = {name.split(".")[0] for name in lacking if name not in by_class}
    if "backbone" in parts:
        yield "It has another backbone: give the config it was trained with"
    queries = misshapen.get("query_sources.matching.content.weight")
    if queries:
        yield f"It has {queries.file[0]} queries: model.query_sources.matching.num_queries"
    for part in ("encoder", "decoder"):
        layers = [_count_layers(names, part) for names in (tensors, lacking)]
        if layers[0] and layers[1] > layers[0]:
            yield f"It has {layers[0]} {part} layers: model.{part}.num_layers={layers[0]}"
    dino = {name for name in (*comparison.unexpected, *lacking) if "position_mlp" in name}
    if dino:
        ours, its = ("Co-DINO", "Deformable-DETR")[:: 1 if dino & set(lacking) else -1]
        yield f"The model is of the family {ours}, the file of {its}"
    heads = {".".join(name.split(".")[:2]) for name in lacking if name.startswith("aux_heads.")}
    if heads - {".".join(name.split(".")[:2]) for name in tensors}:
        yield f"It was trained without {', '.join(sorted(heads))}: use the config of that training"


def _count_layers(names: Iterable[str], part: str) -> int:
    found = [int(m[1]) for n in names if (m := re.match(rf"{part}\.layers\.(\d+)\.", n))]
    return max(found, default=-1) + 1
