"""Checkpoints that survive a kill at any moment."""

from contextlib import AbstractContextManager
from typing import IO, Any

from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import Checkpointer
from safetensors.torch import load_file
from torch import nn

from .files import whole_file


class WholeFileCheckpointer(DetectionCheckpointer):
    """A `DetectionCheckpointer` whose files, `last_checkpoint` too, are whole or not there.

    It loads `.safetensors`, too: tensors of the model by name.

    Args:
        model, save_dir, save_to_disk, checkpointables: as there.
        resumable: whether a resumed run may start from what this one saves. If not, the saved files
            do not become the last checkpoint.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        resumable: bool = True,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = _WholeFiles(self.path_manager)
        self.resumable = resumable

    # Saving is fvcore's: it opens all files by the path manager, whatever detectron2 does.

    def save(self, name: str, **kwargs: Any) -> None:
        Checkpointer.save(self, name, **kwargs)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        if self.resumable:
            Checkpointer.tag_last_checkpoint(self, last_filename_basename)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".safetensors"):
            return {"model": load_file(filename)}
        return super()._load_file(filename)


class _WholeFiles:
    """A path manager that writes local files whole."""

    def __init__(self, path_manager: Any):
        self._path_manager = path_manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._path_manager, name)

    def open(self, path: str, mode: str = "r", **options: Any) -> AbstractContextManager[IO[Any]]:
        if mode in ("w", "wb") and "://" not in path:
            return whole_file(path, mode)
        return self._path_manager.open(path, mode, **options)
