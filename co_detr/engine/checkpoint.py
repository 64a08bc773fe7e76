"""Checkpoints that survive a kill at any moment."""

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
        self._wanted: set[str] = set()

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """As there; raises what `read_checkpoint` and the two functions that load weights do."""
        if not path:
            return super().load(path, checkpointables)
        self._wanted = set(self.checkpointables if checkpointables is None else checkpointables)
        return super().load(str(local_path(path)), checkpointables)

    # Saving is fvcore's: it opens all files by the path manager, whatever detectron2 does.

    def save(self, name: str, **extra: Any) -> None:
        names = getattr(self.model, CLASS_NAMES, None)
        card = getattr(self.model, MODEL_CARD, None)
        known = {CLASS_NAMES: list(names)} if names else {}
        known |= {MODEL_CARD: card.to_dict()} if card else {}
        Checkpointer.save(self, name, **known, **extra)

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
