"""Parts of a model that are not trained, by name."""

import difflib
import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase

from detectron2.engine import HookBase
from torch import nn

logger = logging.getLogger(__name__)


def freeze(model: nn.Module, names: str | Sequence[str]) -> list[nn.Module]:
    """Take parts of a model out of training: their parameters get no gradient.

    Call it before the optimizer is built, and before the model is wrapped for several processes.

    Args:
        model: changed in place.
        names: of modules or parameters, "backbone" or "decoder.layers.0"; `*` stands for any text,
            as in "*.norm".

    Returns:
        The frozen modules; see `KeepFrozen`.

    Raises:
        ValueError: nothing is called like one of the names, or nothing is left to be trained.
    """
    names = [names] if isinstance(names, str) else list(names)
    modules = dict(model.named_modules())
    del modules[""]
    frozen = []
    for name in names:
        parts = [module for own, module in modules.items() if fnmatchcase(own, name)]
        parameters = [p for own, p in model.named_parameters() if _is_within(own, name)]
        if not parameters:
            raise ValueError(_unknown(name, model))
        for parameter in parameters:
            parameter.requires_grad_(False)
        frozen += parts
        count = sum(p.numel() for p in parameters)
        logger.info(f"Frozen: {name}, {len(parameters)} parameters of {count:,} values")
    if names and not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"train.freeze={names} leaves nothing to train: remove one of the names")
    return frozen


class KeepFrozen(HookBase):
    """Holds frozen modules in evaluation mode while the rest of the model trains.

    So their batch norms keep their statistics, and nothing in them is dropped at random: what is
    frozen computes in training what it computes afterwards.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        self._modules = list(modules)

    def before_step(self) -> None:
        # each time, as evaluation puts the whole model back into training mode
        for module in self._modules:
            module.eval()


def _is_within(parameter: str, name: str) -> bool:
    return fnmatchcase(parameter, name) or fnmatchcase(parameter, f"{name}.*")


def _unknown(name: str, model: nn.Module) -> str:
    with_parameters = [own for own, part in model.named_modules() if own and [*part.parameters()]]
    known = [own for own in with_parameters if "." not in own]
    close = difflib.get_close_matches(name, with_parameters, n=5) or known
    return (
        f"train.freeze: no part of the model with parameters is called {name!r}. Close or known "
        f"names: {', '.join(close)}"
    )
