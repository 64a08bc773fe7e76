"""Finding the tensors of a checkpoint whose names lack the beginning of the model's names."""

from logging import Logger

import torch


def match_by_suffix(
    model_state: dict[str, torch.Tensor], checkpoint_state: dict[str, torch.Tensor], logger: Logger
) -> dict[str, torch.Tensor]:
    """Rename the tensors of a checkpoint to those of a model.

    The weights of a backbone, saved on their own, are called `res2.0.conv1.weight`; in a detector
    the same tensor is `backbone.bottom_up.res2.0.conv1.weight`. So each tensor of the model takes
    the checkpoint's name that its own name equals or ends with, in whole parts between dots; the
    longest if there are several.

    Returns:
        The checkpoint's tensors, under the model's names where there was a match and under their
        own otherwise. Those that match but have another shape are left out, with a warning.

    Raises:
        ValueError: two tensors of the model want the same one of the checkpoint.
    """
    renamed: dict[str, torch.Tensor] = {}
    taken_by: dict[str, str] = {}
    misshapen = set()
    for name, tensor in model_state.items():
        parts = name.split(".")
        suffixes = (".".join(parts[i:]) for i in range(len(parts)))
        source = next((suffix for suffix in suffixes if suffix in checkpoint_state), None)
        if source is None:
            continue
        candidate = checkpoint_state[source]
        if candidate.shape != tensor.shape:
            logger.warning(
                "Skip '%s' of the checkpoint for '%s' of the model: shape %s instead of %s",
                source,
                name,
                tuple(candidate.shape),
                tuple(tensor.shape),
            )
            misshapen.add(source)
        elif source in taken_by:
            raise ValueError(
                f"'{source}' of the checkpoint matches both '{taken_by[source]}' and '{name}' of "
                "the model: rename it to the full name of the one it belongs to"
            )
        else:
            taken_by[source] = name
            renamed[name] = candidate
    for name, tensor in checkpoint_state.items():
        if name not in taken_by and name not in misshapen:
            renamed[name] = tensor
    return renamed
