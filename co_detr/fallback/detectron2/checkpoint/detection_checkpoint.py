"""Checkpoints of detectors: our own, state dicts from elsewhere and files of the model zoo."""

import contextlib
import os
import pickle
from collections.abc import Iterator
from typing import IO, Any

import torch
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from co_detr.checkpoint.array_pickle import load_arrays
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from .name_matching import match_by_suffix


@contextlib.contextmanager
def _open_whole(path: str, mode: str) -> Iterator[IO]:
    """Open a file for writing that appears at `path` once it is complete, or never."""
    partial = f"{path}.partial"
    try:
        with open(partial, mode) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
        raise


class DetectionCheckpointer(Checkpointer):
    """fvcore's `Checkpointer` for detectors.

    Differences to it:

    - `.pth` files need no "model" key, and are read without executing code: they may hold tensors
      and plain Python values (`torch.load` with `weights_only`).
    - `.pkl` files of the model zoo are read: a pickled dict with numpy arrays under "model". Their
      unpickler builds numpy arrays and plain values, and refuses everything else. Where the file
      says `matching_heuristics`, names are matched by `match_by_suffix`.
    - A checkpoint is complete or absent: it gets its name after the last byte is on the disk, and a
      run that is killed while saving can be resumed from the checkpoint before.

    Args:
        model: the model to save and load; the wrapper of `DistributedDataParallel` is taken off.
        save_dir: folder for checkpoints; without one, nothing is saved.
        save_to_disk: whether this process writes; by default only the main process does.
        checkpointables: more objects with `state_dict` and `load_state_dict`, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ):
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager
        self._matches_by_suffix = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Write the model, the checkpointables and `kwargs` to `<save_dir>/<name>.pth`."""
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content.update((key, obj.state_dict()) for key, obj in self.checkpointables.items())
        content.update(kwargs)
        file_name = f"{name}.pth"
        path = os.path.join(self.save_dir, file_name)
        self.logger.info("Saving checkpoint to %s", path)
        with self._open(path, "wb") as f:
            torch.save(content, f)
        self.tag_last_checkpoint(file_name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note in `<save_dir>/last_checkpoint` which file to resume from."""
        with self._open(os.path.join(self.save_dir, "last_checkpoint"), "w") as f:
            f.write(last_filename_basename)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint, as fvcore's `Checkpointer`.

        Args:
            path: a file or URL. With "?matching_heuristics=True" behind it, names are matched by
                `match_by_suffix`.
            args, kwargs: as there.

        Raises:
            ValueError: another query behind the path.
        """
        self._matches_by_suffix = False
        if path and "?" in path and not os.path.isfile(path):
            path, _, query = path.rpartition("?")
            if query != "matching_heuristics=True":
                raise ValueError(
                    f"{path}?{query}: of queries there is only ?matching_heuristics=True"
                )
            self._matches_by_suffix = True
        return super().load(path, *args, **kwargs)

    def _open(self, path: str, mode: str) -> contextlib.AbstractContextManager[IO]:
        """Open for writing; storage behind a URL is left to its own handler."""
        return self.path_manager.open(path, mode) if "://" in path else _open_whole(path, mode)

    def _load_file(self, f: str) -> dict[str, Any]:
        """Read a local file.

        Returns:
            A dict with "model" (name to tensor or array) and whatever else the file holds.

        Raises:
            pickle.UnpicklingError: the file holds other objects than is safe to load.
            ValueError: a `.pkl` file is not in the layout of the model zoo.
        """
        if f.endswith(".pkl"):
            with open(f, "rb") as file:
                content = load_arrays(file)
            if not isinstance(content, dict) or not {"model", "__author__"} <= content.keys():
                raise ValueError(
                    f"{f} has no 'model' and '__author__' as the files of the model zoo have; "
                    "files of Caffe2 are not supported"
                )
            self.logger.info("Reading a file from %r", content["__author__"])
            return content
        try:
            content = torch.load(f, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(
                f"{f} is damaged, or holds more than tensors and plain Python values, which is not "
                "safe to load: save it again without the rest"
            ) from error
        return content if "model" in content else {"model": content}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        """Load `checkpoint["model"]` and take it out; returns fvcore's incompatible keys."""
        if checkpoint.get("matching_heuristics", self._matches_by_suffix):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = match_by_suffix(
                self.model.state_dict(), checkpoint["model"], self.logger
            )
        return super()._load_model(checkpoint)
