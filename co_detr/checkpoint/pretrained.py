"""Configs of models without the weights that their parts would read or fetch for themselves."""

import copy
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, Node

READS_WEIGHTS = ("pretrained", "pretrained_file", "checkpoint_path", "pretrained_cfg_overlay")
"""Arguments of models by which weights are read from files or fetched when they are built."""


def without_pretrained(model: DictConfig) -> DictConfig:
    """A copy of a model's config that neither reads nor fetches weights when it is built.

    Backbones load ImageNet weights by `READS_WEIGHTS`, in vain where a checkpoint follows.
    """
    model = copy.deepcopy(model)
    for call in _calls(model):
        for key in READS_WEIGHTS:
            if call.get(key):
                call[key] = False if isinstance(call[key], bool) else None
    return model


def inner_nodes(node: DictConfig | ListConfig) -> Iterator[tuple[Any, Node]]:
    """What stands in a config, by its keys or numbers there; interpolations are not followed."""
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        inner = node._get_node(key)
        assert isinstance(inner, Node)  # of one key that is there
        yield key, inner


def _calls(node: DictConfig | ListConfig) -> Iterator[DictConfig]:
    """The calls that a config describes, itself and all inside."""
    if isinstance(node, DictConfig) and "_target_" in node:
        yield node
    for _, inner in inner_nodes(node):
        if isinstance(inner, DictConfig | ListConfig) and isinstance(inner._value(), dict | list):
            yield from _calls(inner)
