"""Read checkpoint files from anywhere without running what they contain."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager
from torch import Tensor

from .formats import (
    DamagedCheckpointError,
    UnsafeCheckpointError,
    check_start,
    metadata_value,
    read_content,
)
from .wrappers import averages_in, weights_in

__all__ = [
    "CLASS_NAMES",
    "MODEL_CARD",
    "Checkpoint",
    "DamagedCheckpointError",
    "UnsafeCheckpointError",
    "check_readable",
    "local_path",
    "read_checkpoint",
    "read_tensors",
]

CLASS_NAMES = "class_names"
"""Key of the names of the classes in checkpoints of this project, in order."""

MODEL_CARD = "model_card"
"""Key of what a checkpoint says of its model, see `model_card`; in the metadata of a `.safetensors`
file as JSON."""

_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pkl")


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights.

    Attributes:
        path: where it was read from.
        tensors: the weights by name, on the CPU.
        class_names: what its classes are called, in order; None if it does not say.
        rest: everything else in it, by its keys there.
    """

    path: str
    tensors: dict[str, Tensor]
    class_names: tuple[str, ...] | None = None
    rest: dict[str, Any] = field(default_factory=dict)


def local_path(path: str | Path) -> Path:
    """The file that a path or a URL stands for; what is elsewhere is fetched first.

    Raises:
        FileNotFoundError: there is no such file; says what is there instead.
    """
    # the end that detectron2's checkpointer understands says what is done here in any case
    text = str(path).removesuffix("?matching_heuristics=True")
    if "://" in text:
        return Path(PathManager.get_local_path(text))
    found = Path(os.path.expanduser(text))
    if found.is_file():
        return found
    if found.is_dir():
        inside = sorted(p.name for p in found.iterdir() if p.suffix in _SUFFIXES)
        raise FileNotFoundError(
            f"{path} is a folder, not a checkpoint: give a file in it"
            + (f", e.g. {', '.join(inside[:5])}" if inside else ", but it holds no weights")
        )
    message = f"no checkpoint at {path} (looked for in {os.getcwd()})"
    if found.parent.is_dir():
        there = [p.name for p in found.parent.iterdir() if p.suffix in _SUFFIXES]
        close = difflib.get_close_matches(found.name, there) or sorted(there)[:5]
        message += f"; in that folder there are: {', '.join(close)}" if close else ""
    raise FileNotFoundError(message)


def check_readable(path: str | Path) -> None:
    """Find out at little cost that a checkpoint cannot be read, before anything is built for it.

    What a URL stands for is not fetched for that.

    Raises:
        FileNotFoundError: as `local_path`.
        DamagedCheckpointError: the file is empty, text, compressed, or cut off.
    """
    if "://" not in str(path):
        check_start(local_path(path))


def read_checkpoint(path: str | Path, *, ema: bool = False) -> Checkpoint:
    """Read weights in any format, with the names of their classes where the file has them.

    Understood are torch's files, `.safetensors` and pickled arrays of detectron2's model zoo,
    whatever their suffix. The weights may lie under keys such as "state_dict" or "model" and in
    wrappers of modules ("module.", "_orig_mod."); see `wrappers`. Moving averages are left out, or
    taken instead of the weights: copies named "ema_<name with _ for .>" beside the weights
    (mmdetection 2.x) or under a key such as "ema" or "ema_state_dict". A file that holds nothing
    but moving averages gives these.

    Args:
        path: the file, or a URL.
        ema: take the moving averages.

    Raises:
        FileNotFoundError: no such file.
        UnsafeCheckpointError: the file holds other than tensors and plain values.
        DamagedCheckpointError: the file cannot be read, or holds no tensors.
        KeyError: `ema` is asked for and the file has no moving averages.
    """
    file = local_path(path)
    content, metadata = read_content(file)
    tensors = weights_in(content)
    if not tensors:
        raise DamagedCheckpointError(path, "it holds no tensors", "is it the right file?")
    if "blobs" in content or ("conv1_w" in tensors and not any("." in n for n in tensors)):
        raise DamagedCheckpointError(
            path, "it holds weights of Caffe2, which are not supported", "take a file of PyTorch"
        )
    beside = {f"ema_{name.replace('.', '_')}": name for name in tensors}
    if ema:
        averages = averages_in(content) or {
            beside[key]: tensors[key] for key in tensors if key in beside
        }
        if not averages:
            raise KeyError(f"{path} holds no moving averages; read it without ema=True")
        tensors = tensors | {name: t for name, t in averages.items() if name in tensors}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in beside}
    rest = {k: v for k, v in content.items() if not isinstance(v, Tensor) and k != "model"}
    if (card := metadata_value(metadata, MODEL_CARD)) is not None:
        rest[MODEL_CARD] = card
    listed = metadata_value(metadata, CLASS_NAMES)
    names = listed if isinstance(listed, list) and listed else _class_names(rest)
    return Checkpoint(str(path), tensors, tuple(map(str, names)) if names else None, rest)


def read_tensors(path: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Only the tensors of `read_checkpoint`, by name."""
    return read_checkpoint(path, ema=ema).tensors


def _class_names(rest: Mapping[str, Any]) -> list | tuple | None:
    """What a checkpoint of ours or of mmdetection (2.x, 3.x) calls its classes."""
    names = rest.get(CLASS_NAMES)
    meta = rest.get("meta")
    if names is None and isinstance(meta, Mapping):
        described = meta.get("dataset_meta")
        for place in (described, meta):
            for key in ("CLASSES", "classes"):
                if names is None and isinstance(place, Mapping):
                    names = place.get(key)
    return names if isinstance(names, list | tuple) else None
