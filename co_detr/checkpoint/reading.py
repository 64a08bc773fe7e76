"""Read checkpoint files from elsewhere without running what they contain."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


class UnsafeCheckpointError(ValueError):
    """A file holds more than tensors and plain values, so that reading it could run code."""


class DamagedCheckpointError(ValueError):
    """A file is truncated, empty, or no checkpoint at all."""


def read_tensors(path: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Read the state dict of a released or trained checkpoint.

    Understood are `.safetensors`, and `.pth` files with the tensors at the top level or under
    "state_dict" or "model", with or without a "module." prefix. Moving averages are left out, or
    taken instead of the weights: copies named "ema_<name with _ for .>" beside the weights
    (mmdetection 2.x) or a separate "ema_state_dict" (mmdetection 3.x).

    Args:
        path: the file.
        ema: take the moving averages.

    Returns:
        tensors by name, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        UnsafeCheckpointError: the file holds other than tensors and plain values.
        DamagedCheckpointError: the file cannot be read, or holds no tensors.
        KeyError: `ema` is asked for and the file has no moving averages.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    averages = content.get("ema_state_dict") if isinstance(content, dict) else None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = _tensors_of(content)
    if not tensors:
        raise DamagedCheckpointError(f"{path} holds no tensors")
    names = {f"ema_{name.replace('.', '_')}": name for name in tensors}
    beside = {names[key]: tensors[key] for key in tensors if key in names}
    if ema:
        averages = _tensors_of(averages) if averages else beside
        if not averages:
            raise KeyError(f"{path} holds no moving averages; read it without ema=True")
        tensors = tensors | {name: t for name, t in averages.items() if name in tensors}
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def _tensors_of(content: object) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        return {}
    return {
        str(name).removeprefix("module."): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }


def _read_safetensors(path: Path) -> dict:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DamagedCheckpointError(
            f"{path} is no complete safetensors file ({error}); fetch it again"
        ) from error


def _read_pickle(path: Path) -> dict:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and "Unsupported" in str(error):
            raise UnsafeCheckpointError(
                f"{path} holds more than tensors and plain values, and reading that could run code "
                "from the file. If you trust its origin, load it yourself, and save only its "
                f"tensors with safetensors. Refused: {_refused(error)}"
            ) from error
        raise DamagedCheckpointError(
            f"{path} is no readable checkpoint, maybe cut off; fetch it again"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DamagedCheckpointError(
            f"{path} is no readable checkpoint, maybe cut off; fetch it again ({error})"
        ) from error


def _refused(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if "Unsupported" in line]
    return lines[0].strip() if lines else "unknown content"
