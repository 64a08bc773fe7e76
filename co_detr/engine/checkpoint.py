"""Checkpoints that survive a kill at any moment."""

import copy
import os
from contextlib import AbstractContextManager
from typing import IO, Any

from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from co_detr.checkpoint.loading import load_for_inference, load_for_training
from co_detr.checkpoint.matching import UnfittingCheckpointError
from co_detr.checkpoint.reading import (
    CLASS_NAMES,
    MODEL_CARD,
    Checkpoint,
    local_path,
    read_checkpoint,
)

from .files import whole_file
from .fsdp import gathered, is_sharded


class WholeFileCheckpointer(DetectionCheckpointer):
    """A `DetectionCheckpointer` whose files, `last_checkpoint` too, are whole or not there.

    It loads every format that `read_checkpoint` reads, as `load_for_training` does: what fits; but
    together with the state of a run only what fits entirely, as `load_for_inference` does. If the
    model has an attribute `class_names`, these are saved with it, and rows of class layers are
    loaded by name. If it has an attribute `model_card`, this is saved with it, too.

    Args:
        model, save_dir, save_to_disk, checkpointables: as there.
        resumable: whether a resumed run may start from what this one saves. If not, the saved files
            do not become the last checkpoint.

    Attributes:
        last_saved: name of the last file that was saved; the same on all processes that save.
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
        self.last_saved: str | None = None
        self._wanted: set[str] = set()

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """As there; raises what `read_checkpoint` and the two functions that load weights do."""
        if not path:
            return super().load(path, checkpointables)
        self._wanted = set(self.checkpointables if checkpointables is None else checkpointables)
        return super().load(str(local_path(path)), checkpointables)

    def get_checkpoint_file(self) -> str:
        """As there.

        Raises:
            ValueError: `last_checkpoint` holds something else than the name of a file.
        """
        try:
            path = super().get_checkpoint_file()
        except UnicodeDecodeError:
            path = "\0"
        if "\0" in path or path.endswith(os.sep):
            named = os.path.join(self.save_dir, "last_checkpoint")
            raise ValueError(
                f"{named} is broken: it must hold the name of the checkpoint to resume from, such "
                "as model_0004999.pth. Write it there"
            )
        return path

    # Saving is fvcore's: it opens all files by the path manager, whatever detectron2 does.

    def save(self, name: str, **extra: Any) -> None:
        """As there. All processes call it where the model is sharded; the main process writes."""
        self.last_saved = name
        names = getattr(self.model, CLASS_NAMES, None)
        card = getattr(self.model, MODEL_CARD, None)
        known = {CLASS_NAMES: list(names)} if names else {}
        known |= {MODEL_CARD: card.to_dict()} if card else {}
        extra = {**known, **extra}
        Checkpointer.save(self._whole() if is_sharded(self.model) else self, name, **extra)

    def _whole(self) -> "WholeFileCheckpointer":
        """One that saves what all processes have together of a sharded model."""
        whole = copy.copy(self)
        whole.model = _Gathered(self.model)
        whole.checkpointables = {k: _Gathered(part) for k, part in self.checkpointables.items()}
        return whole

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        if self.resumable:
            Checkpointer.tag_last_checkpoint(self, last_filename_basename)

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(filename)
        return checkpoint.rest | {"model": checkpoint}

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        weights: Checkpoint = checkpoint.pop("model")
        names = getattr(self.model, CLASS_NAMES, None)
        if not self._wanted & checkpoint.keys():
            load_for_training(self.model, weights, names, self.logger)
            return
        if names and weights.class_names and tuple(names) != weights.class_names:
            raise UnfittingCheckpointError(
                f"the run of {weights.path} is trained on the classes "
                f"{', '.join(weights.class_names)}; now they are {', '.join(names)}: resume with "
                "the same data, or start a new run from it with train.init_checkpoint"
            )
        load_for_inference(self.model, weights)


class _Gathered:
    """The state of a sharded model, or of its training, on the CPU of the main process."""

    def __init__(self, part: Any):
        self._state = gathered(part.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return self._state


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
