"""The formats that weights come in, told by content instead of suffix, and read without code.

Nothing that a file says is run: torch's own format by its restricted unpickler, pickled arrays by
one that knows arrays, safetensors as they are.
"""

import argparse
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from .array_pickle import ARRAY_GLOBALS, encode_latin1, load_arrays


class UnsafeCheckpointError(ValueError):
    """A file holds more than tensors and plain values, so that reading it could run code."""

    def __init__(self, path: str | Path, refused: str):
        super().__init__(
            f"{path} holds more than tensors and plain values, and reading that could run code "
            "from the file. If you trust its origin, load it yourself, and save only its tensors "
            f"with safetensors. Refused: {refused}"
        )


class DamagedCheckpointError(ValueError):
    """A file is truncated, empty, or no checkpoint at all."""

    def __init__(self, path: str | Path, reason: str, remedy: str = "fetch or copy it again"):
        super().__init__(f"{path} is no readable checkpoint: {reason}; {remedy}")


class _Plain:
    """Stands in for classes of other projects that lie beside weights; keeps what it is given."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass


# Harmless company of tensors, under the names it is pickled by.
_BESIDE_TENSORS: list[Callable | tuple[Callable, str]] = [
    (encode_latin1, "_codecs.encode"),
    (argparse.Namespace, "argparse.Namespace"),
    (_Plain, "mmengine.logging.history_buffer.HistoryBuffer"),
    *((function, f"{module}.{name}") for (module, name), function in ARRAY_GLOBALS.items()),
    *(
        kind
        for name in dir(np.dtypes)
        if isinstance(kind := getattr(np.dtypes, name), type) and issubclass(kind, np.dtype)
    ),
]

_CUT_OFF = "it is cut off or damaged inside"
_ZIP, _TORCH_LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# (what it starts with, what it is, what to do)
_NO_CHECKPOINTS = [
    (b"version https://git-lfs", "it is a pointer of Git LFS", "fetch the file: git lfs pull"),
    (b"<", "it is a web page", "look at it with a browser: it says what the download lacked"),
    (b"\x1f\x8b", "it is compressed by gzip", "unpack it first"),
    (b"BZh", "it is compressed by bzip2", "unpack it first"),
    (b"\xfd7zXZ", "it is compressed by xz", "unpack it first"),
    (b"7z\xbc\xaf", "it is a 7-Zip archive", "unpack it first"),
    (b"\x89HDF", "it is an HDF5 file (Keras)", "weights of PyTorch are needed"),
    (b"\x93NUMPY", "it is a single numpy array", "save the arrays by name, as .safetensors"),
    (b"GGUF", "it is a GGUF file", "weights of PyTorch are needed"),
]


def read_content(path: Path) -> tuple[Any, dict[str, str]]:
    """What a checkpoint file holds.

    Args:
        path: an existing file, whatever its suffix.

    Returns:
        the content, usually nested dicts with tensors or numpy arrays in them, and the metadata of
        a safetensors file.

    Raises:
        UnsafeCheckpointError: the file holds other than tensors and plain values.
        DamagedCheckpointError: the file cannot be read.
    """
    start = _check_start(path)
    if start.startswith((_ZIP, _TORCH_LEGACY)):
        return _read_torch(path), {}
    if _is_safetensors(start):
        return _read_safetensors(path)
    if start[:1] in (b"\x80", b"("):
        return _read_pickle(path), {}
    if _is_tar(path):
        return _read_torch(path), {}
    raise DamagedCheckpointError(path, "its content is of no known format")


def check_start(path: Path) -> None:
    """Refuse, at the cost of a few bytes, files that `read_content` would refuse for certain.

    Raises:
        DamagedCheckpointError: the file is empty, text, compressed, or cut off.
    """
    start = _check_start(path)
    if start.startswith(_ZIP) and not zipfile.is_zipfile(path):
        raise DamagedCheckpointError(path, _CUT_OFF)
    if _is_safetensors(start):
        _open_safetensors(path)


def _check_start(path: Path) -> bytes:
    """The first bytes of a file that may be a checkpoint."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise DamagedCheckpointError(path, str(error), "check the file and its disk") from error
    if not start:
        raise DamagedCheckpointError(path, "it is empty")
    if not start.strip(b"\0"):
        raise DamagedCheckpointError(path, "it holds only zeros, so it was never written")
    if _is_safetensors(start):
        return start
    for beginning, kind, remedy in _NO_CHECKPOINTS:
        if start.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(beginning):
            raise DamagedCheckpointError(path, kind, remedy)
    if _is_text(start) and not start.startswith(b"("):  # the oldest pickles are text
        raise DamagedCheckpointError(
            path, f"it is text ({start[:40].decode('latin1')!r}...)", "is it another file's name?"
        )
    return start


def _is_text(start: bytes) -> bool:
    return not set(range(32)).difference((9, 10, 12, 13, 27)) & set(start)


def _is_safetensors(start: bytes) -> bool:
    """Whether a length of eight bytes and a JSON object come first."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 10**9


def _is_tar(path: Path) -> bool:
    """Whether it is an archive, as torch wrote them before 0.4."""
    with open(path, "rb") as file:
        file.seek(257)
        return file.read(5) == b"ustar"


def _read_safetensors(path: Path) -> tuple[dict, dict[str, str]]:
    with _open_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}


def _open_safetensors(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        reason = f"{_CUT_OFF} (no complete safetensors file: {error})"
        raise DamagedCheckpointError(path, reason) from error


def _read_torch(path: Path) -> Any:
    try:
        # opened here, since of a path torch would believe the suffix
        with open(path, "rb") as file, torch.serialization.safe_globals(_BESIDE_TENSORS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := _refused(error):
            raise UnsafeCheckpointError(path, refused) from error
        raise DamagedCheckpointError(path, _CUT_OFF) from error
    except (MemoryError, OSError):
        raise
    except Exception as error:  # garbage makes unpicklers raise nearly everything
        if "TorchScript" in str(error):
            raise UnsafeCheckpointError(path, "a TorchScript program") from error
        if "data.pkl" not in _inside(path):
            raise DamagedCheckpointError(
                path, "it is a zip archive without tensors", "unpack it and look inside"
            ) from error
        raise DamagedCheckpointError(path, f"{_CUT_OFF} ({first_line(error)})") from error


def _inside(path: Path) -> set[str]:
    """The names, without folders, of what is in a zip archive; that of torch's tensors where it is
    none, or broken."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return {"data.pkl"}


def _read_pickle(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            return load_arrays(file)
    except pickle.UnpicklingError as error:
        if "refused to load" in str(error):
            refused = str(error).removeprefix("refused to load ").partition(":")[0]
            raise UnsafeCheckpointError(path, refused) from error
        raise DamagedCheckpointError(path, _CUT_OFF) from error
    except Exception as error:  # garbage makes unpicklers raise nearly everything
        raise DamagedCheckpointError(path, f"{_CUT_OFF} ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    """The first line of what an error says, its kind where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _refused(error: Exception) -> str | None:
    """What torch's unpickler refused to call or to build; None if it stumbled over garbage."""
    signs = "global:", "unsupported GLOBAL", "call reduce", "Can only create", "Can only build"
    for line in str(error).splitlines():
        for sign in signs:
            if sign in line:
                return line[line.index(sign) :].partition(" was not an allowed")[0].strip()
    return None


def metadata_value(metadata: dict[str, str], key: str) -> Any:
    """A value kept as JSON in the metadata of a safetensors file; None where it is not there."""
    try:
        return json.loads(metadata.get(key, "null"))
    except json.JSONDecodeError:
        return None
