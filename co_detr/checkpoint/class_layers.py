"""Bring the layers that have a row per class to another set of classes."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from co_detr.modeling.aux_heads.anchors import PyramidAnchors

from .class_names import same

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
_PROPOSALS = CLASS_LAYERS[0][0]
_DECODER = CLASS_LAYERS[1][0]


@dataclass(frozen=True)
class ChangedClasses:
    """Tensors for another set of classes, and what became of the rows.

    Attributes:
        tensors: all tensors, class layers with the rows of the new classes.
        kept: (name, row before, row now) of classes that are called the same.
        fresh: names of the classes that start as the model initialized them.
        layers: names of the class layers whose rows are not those of the file.
    """

    tensors: dict[str, Tensor]
    kept: tuple[tuple[str, int, int], ...] = ()
    fresh: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


def class_layer(name: str) -> tuple[int, int] | None:
    """(rows per class, background rows) of one of our parameters; None if it knows no classes."""
    for pattern, rows, background in CLASS_LAYERS:
        if re.fullmatch(pattern, name):
            return rows, background
    return None


def num_classes_of(tensors: Mapping[str, Tensor]) -> int | None:
    """How many classes the decoder of a checkpoint of ours tells apart; None if it has none."""
    return next((len(t) for name, t in tensors.items() if re.fullmatch(_DECODER, name)), None)


def ranks_by_first_row(name: str, model: nn.Module) -> bool:
    """Whether row 0 of a class layer says "object or not", whatever class 0 is.

    So it is with class-agnostic proposals (Deformable-DETR): only that row is ever looked at.
    """
    agnostic = getattr(getattr(model, "proposals", None), "class_agnostic", False)
    return bool(agnostic) and re.fullmatch(_PROPOSALS, name) is not None


def is_class_agnostic(name: str, model: nn.Module) -> bool:
    """Whether a class layer has the same rows for all classes in a model, however many these are.

    So it is with boxes of class-agnostic RoI heads, and with the last stage of refined masks.
    """
    if match := re.fullmatch(r"(aux_heads\.\w+\.box_head)\.bbox_pred\.\w+", name):
        return bool(getattr(model.get_submodule(match[1]), "class_agnostic_boxes", False))
    if match := re.fullmatch(r"(instance_mask\.mask_head\.predictors)\.(\d+)\.\w+", name):
        stages = model.get_submodule(match[1])
        return int(match[2]) == len(list(stages.children())) - 1
    return False


def change_classes(
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    source_names: Sequence[str] = (),
    target_names: Sequence[str] = (),
) -> ChangedClasses:
    """Put the rows of class layers where the model has these classes.

    With names on both sides, rows go by name (but for case and underscores), also where both have
    as many classes. Rows of classes that the file does not know start as the model initialized
    them; without names, that is all rows of the layers whose number of classes is another. Rows of
    the background are kept, and so is the row of class-agnostic proposals.

    Args:
        tensors: under our names.
        model: freshly initialized.
        source_names, target_names: names of the classes of the file and of the model, in order.

    Raises:
        ValueError: the names do not fit the numbers of rows.
    """
    state = model.state_dict()
    by_name = bool(source_names and target_names)
    moved = by_name and list(map(same, source_names)) != list(map(same, target_names))
    kept = _pairs(source_names, target_names) if by_name else []
    result, layers = dict(tensors), []
    for name, tensor in tensors.items():
        layer = class_layer(name)
        if layer is None or name not in state or tensor.shape[1:] != state[name].shape[1:]:
            continue
        if tensor.shape == state[name].shape and is_class_agnostic(name, model):
            continue
        repeats = _repeats(name, model)
        counts = [(len(t) // repeats - layer[1]) // layer[0] for t in (tensor, state[name])]
        _check_count(name, counts[0], source_names, "source")
        _check_count(name, counts[1], target_names, "target")
        if not moved and tensor.shape == state[name].shape:
            continue
        pairs = [(before, now) for _, before, now in kept]
        if ranks_by_first_row(name, model):
            pairs = [(0, 0)]
        own = state[name].detach()
        if hasattr(own, "full_tensor"):  # each process has a share of it
            own = own.full_tensor()
        result[name] = own.to("cpu").clone()
        for new, old in zip(result[name].chunk(repeats), tensor.chunk(repeats)):
            _fill_rows(new, old, pairs, *layer)
        layers.append(name)
    found = {now for _, _, now in kept}
    fresh = [name for row, name in enumerate(target_names) if by_name and row not in found]
    return ChangedClasses(result, tuple(kept), tuple(fresh), tuple(layers))


def _pairs(source: Sequence[str], target: Sequence[str]) -> list[tuple[str, int, int]]:
    """(name, row in source, row in target) of names that stand once on both sides."""
    source, spelt = list(map(same, source)), target
    target = list(map(same, target))
    once = Counter(source)
    return [
        (spelt[row], source.index(name), row)
        for row, name in enumerate(target)
        if once[name] == 1 and target.count(name) == 1
    ]


def _repeats(name: str, model: nn.Module) -> int:
    """How often all classes stand in a layer: once, or for each anchor of a cell."""
    match = re.fullmatch(r"(aux_heads\.\w+)\.class_predictor\.\w+", name)
    anchors = getattr(model.get_submodule(match[1]), "anchors", None) if match else None
    return anchors.num_per_cell if isinstance(anchors, PyramidAnchors) else 1


def _fill_rows(
    fresh: Tensor, tensor: Tensor, pairs: list[tuple[int, int]], rows: int, background: int
) -> None:
    """Put the rows of the classes that are kept into a freshly initialized layer."""
    for source, target in pairs:
        fresh[target * rows : (target + 1) * rows] = tensor[source * rows : (source + 1) * rows]
    if background:
        fresh[-background:] = tensor[-background:]


def _check_count(name: str, classes: int, names: Sequence[str], side: str) -> None:
    if names and len(names) != classes:
        raise ValueError(
            f"{name} has {classes} {side} classes, but {len(names)} are named "
            f"({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}): name all of them, in "
            "order, without the background"
        )
