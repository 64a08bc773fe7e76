"""`~` at the beginning of a path stands for the home folder, wherever the path comes from.

Importing it teaches that to detectron2's `PathManager`, through which annotation files, pictures
and checkpoints are opened.
"""

import os
from typing import Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import NativePathHandler
from omegaconf import DictConfig, ListConfig, OmegaConf


class HomePathHandler(NativePathHandler):
    """Local files, by paths such as `~/coco/train.json`, too."""

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return os.path.expanduser(super()._get_local_path(path, force=force, **kwargs))

    def _get_path_with_cwd(self, path: str) -> str:
        return super()._get_path_with_cwd(os.path.expanduser(path))

    def _mkdirs(self, path: str, **kwargs: Any) -> None:
        super()._mkdirs(os.path.expanduser(path), **kwargs)

    def _rm(self, path: str, **kwargs: Any) -> None:
        super()._rm(os.path.expanduser(path), **kwargs)


PathManager.register_handler(HomePathHandler(), allow_override=True)


def expand_home(cfg: DictConfig | ListConfig) -> None:
    """Replace `~` at the beginning of every text in a config, in place; `~name` where there is such
    a user."""
    for key in cfg.keys() if isinstance(cfg, DictConfig) else range(len(cfg)):
        node: Any = cfg._get_node(key)  # type: ignore[arg-type]  # an index where cfg is a list
        value = node._value()
        if isinstance(value, str) and value.startswith("~"):
            node._set_value(os.path.expanduser(value))
        elif OmegaConf.is_config(node) and isinstance(value, dict | list):
            expand_home(node)
