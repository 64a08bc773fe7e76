"""Put weights into a model: strictly to use it, leniently to train it further."""

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from .class_layers import change_classes, num_classes_of
from .class_names import known_by_number, same
from .matching import Comparison, UnfittingCheckpointError, compare, first_of
from .official import is_official
from .reading import MODEL_CARD, Checkpoint, read_checkpoint
from .wrappers import under_names_of

logger = logging.getLogger(__name__)


def load_for_inference(
    model: nn.Module,
    checkpoint: Checkpoint | str | Path,
    config: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Checkpoint:
    """Load weights that a model is to be used with: all of its tensors, or none.

    Tensors that the model lacks, such as heads that only training needs, are left out and counted
    in the log. Weights in reduced precision take the model's.

    Args:
        model: gets the weights.
        checkpoint: the file, or what `read_checkpoint` made of it.
        config: the path or name of the model's config, for messages.
        class_names: what the data calls the classes, in order; compared with the file's.

    Returns:
        what was read.

    Raises:
        UnfittingCheckpointError: a tensor of the model is missing, has another shape, or is not
            finite; says how many, which, and why that may be. Or the classes of the data are those
            of the file in another order.
        FileNotFoundError, UnsafeCheckpointError, DamagedCheckpointError: as `read_checkpoint`.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    tensors = under_names_of(checkpoint.tensors, model)
    comparison = compare(tensors, model, checkpoint.path, config)
    if not comparison.fits:
        own = ""
        if config and MODEL_CARD in checkpoint.rest:
            own = f"\n{checkpoint.path} brings a config along: leave {config} out to use that"
        raise UnfittingCheckpointError(comparison.describe() + own)
    _compare_classes(checkpoint, class_names)
    _load(model, tensors, comparison)
    logger.info(f"Loaded all {len(comparison.fitting)} tensors of the model from {checkpoint.path}")
    if comparison.unexpected:
        logger.warning(
            f"{checkpoint.path} has {len(comparison.unexpected)} tensors that the model has no use "
            f"for: {first_of(comparison.unexpected)}"
        )
    return checkpoint


def load_for_training(
    model: nn.Module,
    checkpoint: Checkpoint,
    class_names: Sequence[str] | None = None,
    log: logging.Logger = logger,
) -> Comparison:
    """Load what fits of weights that a training is to start from, and log what did not.

    Where the classes of both sides are known by name, class layers keep the rows of classes that
    are called the same, wherever the model has them.

    Args:
        model: freshly initialized; keeps what the file does not give.
        checkpoint: what `read_checkpoint` made of a file.
        class_names: what the model's classes are called, in order.
        log: gets the messages.

    Returns:
        what fitted, after classes were moved.

    Raises:
        UnfittingCheckpointError: nothing fits, the weights are not finite, or they are those of the
            release before conversion.
    """
    tensors = under_names_of(checkpoint.tensors, model)
    path = checkpoint.path
    if is_official(tensors):
        raise UnfittingCheckpointError(compare(tensors, model, path).describe())
    tensors = _with_classes_moved(model, tensors, checkpoint, class_names or (), log)
    comparison = compare(tensors, model, path)
    if comparison.non_finite or not comparison.fitting:
        raise UnfittingCheckpointError(comparison.describe())
    _load(model, tensors, comparison)
    total = len(comparison.fitting) + len(comparison.missing) + len(comparison.misshapen)
    log.info(f"Loaded {len(comparison.fitting)} of the model's {total} tensors from {path}")
    if comparison.misshapen:
        log.warning(
            f"{len(comparison.misshapen)} tensors of another shape start anew: "
            + first_of(comparison.misshapen, 50)
        )
    if comparison.missing:
        log.warning(
            f"{len(comparison.missing)} tensors are not in {path} and start anew: "
            + first_of(comparison.missing, 10)
        )
    if comparison.unexpected:
        log.info(
            f"{len(comparison.unexpected)} tensors of {path} are not in the model: "
            + first_of(comparison.unexpected, 10)
        )
    return comparison


def _compare_classes(checkpoint: Checkpoint, class_names: Sequence[str] | None) -> None:
    """Say where data calls the classes otherwise; raise where it has them in another order."""
    if not class_names or not checkpoint.class_names:
        return
    ours, theirs = (list(map(same, names)) for names in (class_names, checkpoint.class_names))
    if ours == theirs:
        return
    text = (
        f"{checkpoint.path} was trained on the classes {', '.join(checkpoint.class_names)}, "
        f"the data has {', '.join(class_names)}"
    )
    if sorted(ours) == sorted(theirs):
        raise UnfittingCheckpointError(
            f"{text}: the same in another order, so that every label would be another's. Give the "
            "categories of the data the order of the training"
        )
    logger.warning(f"{text}: labels go by number")


def _with_classes_moved(
    model: nn.Module,
    tensors: dict[str, Tensor],
    checkpoint: Checkpoint,
    class_names: Sequence[str],
    log: logging.Logger,
) -> dict[str, Tensor]:
    """The tensors with the rows of class layers where the model has these classes."""
    count, source = num_classes_of(tensors), checkpoint.class_names
    wanted = num_classes_of(model.state_dict())
    if source is None and count is not None:
        source = known_by_number(count)
    if count is None or source is None or len(source) != count or len(class_names) != wanted:
        if count is not None and count != wanted:
            log.warning(
                f"{checkpoint.path} is for {count} classes, the model for {wanted}, and they are "
                "not known by name on both sides: all class layers start anew. "
                "co-detr convert takes names: --source-names, --target-names"
            )
        return tensors
    if list(map(same, source)) == list(map(same, class_names)):
        return tensors
    changed = change_classes(tensors, model, source, class_names)
    kept = ", ".join(
        f"{name} ({before} -> {now})" if before != now else name
        for name, before, now in changed.kept
    )
    origin = "" if checkpoint.class_names else f", taken for the {count} of its usual dataset"
    log.info(
        f"Classes of {checkpoint.path}{origin}: {len(changed.kept)} of {len(class_names)} keep "
        f"their rows: {kept or 'none'}"
    )
    if changed.fresh:
        log.info(f"Classes that start anew: {', '.join(changed.fresh)}")
    return changed.tensors


def _load(model: nn.Module, tensors: dict[str, Tensor], comparison: Comparison) -> None:
    model.load_state_dict({name: tensors[name] for name in comparison.fitting}, strict=False)
