"""Bring the layers that have a row per class to another set of classes."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

# (pattern of our names, rows per class, extra rows at the end for the background)
CLASS_LAYERS = [
    (r"proposals\.class_branch\.(weight|bias)", 1, 0),
    (r"decoder\.class_branch(es\.\d+)?\.(weight|bias)", 1, 0),
    (r"query_sources\.denoising\.label_embedding\.weight", 1, 0),
    (r"aux_heads\.\w+\.class_predictor\.(weight|bias)", 1, 0),
    (r"aux_heads\.\w+\.box_head\.cls_score\.(weight|bias)", 1, 1),
    (r"aux_heads\.\w+\.box_head\.bbox_pred\.(weight|bias)", 4, 0),
    (r"aux_heads\.\w+\.mask_head\.predictor\.(weight|bias)", 1, 0),
    (r"instance_mask\.mask_head\.predictors\.\d+\.(weight|bias)", 1, 0),
    (r"instance_mask\.iou_head\.predictor\.(weight|bias)", 1, 0),
]


def class_layer(name: str) -> tuple[int, int] | None:
    """(rows per class, background rows) of one of our parameters; None if it knows no classes."""
    for pattern, rows, background in CLASS_LAYERS:
        if re.fullmatch(pattern, name):
            return rows, background
    return None


def change_classes(
    converted: Mapping[str, Tensor],
    model: Mapping[str, Tensor],
    source_names: Sequence[str] = (),
    target_names: Sequence[str] = (),
) -> tuple[dict[str, Tensor], list[str]]:
    """Replace class layers whose number of classes is not the model's.

    Rows of classes that are called the same on both sides (but for case) are copied, background
    rows too; everything else starts as the model initialized it.

    Args:
        converted: tensors under our names.
        model: the model's freshly initialized state dict.
        source_names, target_names: names of the classes; without them no row is copied.

    Returns:
        the tensors with the layers replaced, and the names of those that were.

    Raises:
        ValueError: the names do not fit the numbers of rows.
    """
    index = {name.lower(): row for row, name in enumerate(source_names)}
    pairs = [(index[n.lower()], i) for i, n in enumerate(target_names) if n.lower() in index]
    result, replaced = dict(converted), []
    for name, tensor in converted.items():
        layer = class_layer(name)
        if layer is None or name not in model or tensor.shape == model[name].shape:
            continue
        rows, background = layer
        _check_rows(name, tensor, rows, background, source_names, "source")
        _check_rows(name, model[name], rows, background, target_names, "target")
        fresh = model[name].clone()
        for source, target in pairs:
            fresh[target * rows : (target + 1) * rows] = tensor[source * rows : (source + 1) * rows]
        if background:
            fresh[-background:] = tensor[-background:]
        result[name] = fresh
        replaced.append(name)
    return result, replaced


def _check_rows(name, tensor, rows, background, names, side) -> None:
    classes = (tensor.shape[0] - background) // rows
    if names and len(names) != classes:
        raise ValueError(f"{name} has {classes} {side} classes, but {len(names)} are named")
