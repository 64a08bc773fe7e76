"""From the description of a call to its result."""

import logging
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from detectron2.utils.registry import locate

__all__ = ["instantiate"]


def instantiate(cfg: Any) -> Any:
    """Make the call that a config describes, after making the calls among its arguments.

    Args:
        cfg: a mapping with the key `_target_` (a callable, its dotted name, or again the
            description of a call that returns one) and the keyword arguments; or a list of them.

    Returns:
        the result of the call; a list of results; `cfg` itself if it describes no call. Mappings
        without `_target_` are not searched for calls.

    Raises:
        ImportError: if nothing has the dotted name.
        AssertionError: if the target cannot be called.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(x) for x in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(x) for x in cfg]
    if isinstance(cfg, DictConfig) and is_dataclass(cfg._metadata.object_type):
        return OmegaConf.to_object(cfg)  # omegaconf had turned a dataclass into a config
    if not (isinstance(cfg, Mapping) and "_target_" in cfg):
        return cfg

    arguments = {key: instantiate(value) for key, value in cfg.items()}
    target = name = arguments.pop("_target_")
    if isinstance(target, str):
        target = locate(target)
    assert callable(target), f"_target_ {name!r} is {target!r}, which cannot be called"
    try:
        return target(**arguments)
    except TypeError:
        logging.getLogger(__name__).error(f"Error when calling {name} with {list(arguments)}")
        raise
