"""Lets loaders and mappers take their arguments from a `CfgNode` as well as explicitly."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode


def accepts_config(read_config: Callable[..., dict[str, Any]]) -> Callable[[Callable], Callable]:
    """
    Decorate a function (or `__init__`) so that it may be called as `f(cfg, ...)`.

    `read_config(cfg, ...)` returns the keyword arguments that the config stands for; its own
    further parameters are taken from the call. What else the call names overrides the config.
    Calls without a `CfgNode` are passed through.
    """
    read_parameters = inspect.signature(read_config).parameters

    def decorate(function: Callable) -> Callable:
        is_method = function.__name__ == "__init__"

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            owner, given = (args[:1], args[1:]) if is_method else ((), args)
            first = given[0] if given else kwargs.get("cfg")
            if not isinstance(first, CfgNode):
                return function(*args, **kwargs)
            for_reading = {k: v for k, v in kwargs.items() if k in read_parameters}
            overriding = {k: v for k, v in kwargs.items() if k not in read_parameters}
            return function(*owner, **{**read_config(*given, **for_reading), **overriding})

        return call

    return decorate
