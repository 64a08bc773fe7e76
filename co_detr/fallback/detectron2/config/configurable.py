"""Lets classes and functions take their arguments from a config as well as explicitly."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode
from omegaconf import DictConfig

__all__ = ["configurable"]


def configurable(
    init_func: Callable | None = None, *, from_config: Callable[..., dict[str, Any]] | None = None
) -> Callable:
    """
    Decorate an `__init__`, or a function, so that it may be called as `f(cfg, ...)`.

    `from_config(cfg, ...)` returns the keyword arguments that the config stands for; its own
    further parameters are taken from the call. What else the call names overrides the config.
    Calls without a config (`CfgNode` or `DictConfig`) are passed through.

    `@configurable` is for the `__init__` of a class whose `from_config` is a class method, which
    subclasses may override; `@configurable(from_config=...)` is for functions.

    Raises:
        AttributeError, TypeError: at a call with a config, of a class whose `from_config` is
            missing or no class method, or where `from_config` does not begin with `cfg`.
    """
    if init_func is not None:
        assert (
            inspect.isfunction(init_func) and init_func.__name__ == "__init__"
        ), "@configurable without from_config=... is for the __init__ of a class"

        @functools.wraps(init_func)
        def initialize(self: Any, *args: Any, **kwargs: Any) -> None:
            if _have_config(args, kwargs):
                init_func(self, **_arguments(_from_config_of(type(self)), args, kwargs))
            else:
                init_func(self, *args, **kwargs)

        return initialize

    assert callable(from_config), "@configurable(from_config=...) needs a function"

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if _have_config(args, kwargs):
                return function(**_arguments(from_config, args, kwargs))
            return function(*args, **kwargs)

        call.from_config = from_config  # type: ignore[attr-defined]
        return call

    return decorate


def _have_config(args: tuple, kwargs: dict[str, Any]) -> bool:
    first = args[0] if args else kwargs.get("cfg")
    return isinstance(first, (CfgNode, DictConfig))


def _from_config_of(owner: type) -> Callable[..., dict[str, Any]]:
    from_config = getattr(owner, "from_config", None)
    if from_config is None:
        raise AttributeError(
            f"{owner.__name__} is to be made from a config: give it a class method from_config"
        )
    if not inspect.ismethod(from_config):
        raise TypeError(f"{owner.__name__}.from_config must be a class method")
    return from_config


def _arguments(
    from_config: Callable[..., dict[str, Any]], args: tuple, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments that a call with a config stands for."""
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"the first parameter of {from_config.__qualname__} must be called cfg")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return from_config(*args, **kwargs)
    for_reading = {name: value for name, value in kwargs.items() if name in parameters}
    overriding = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **for_reading), **overriding}
