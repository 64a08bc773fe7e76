"""Pickles of numpy arrays, as detectron2's model zoo publishes them, read without running code."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import numpy as np


def _rebuild(reduced: str | tuple) -> Callable:
    """The function that makes anew what is pickled so."""
    assert isinstance(reduced, tuple)  # a str would be the name of a global
    return reduced[0]


_REBUILD_ARRAY = _rebuild(np.empty(1).__reduce__())
_REBUILD_SCALAR = _rebuild(np.float32(0).__reduce__())
_REBUILD_FROM_BUFFER = _rebuild(np.empty(1).__reduce_ex__(5))

# Everything an array can be pickled with; the private module was renamed in numpy 2.
ARRAY_GLOBALS: dict[tuple[str, str], Callable] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    **{
        (f"numpy.{core}.{module}", function.__name__): function
        for core in ("core", "_core")
        for module, function in (
            ("multiarray", _REBUILD_ARRAY),
            ("multiarray", _REBUILD_SCALAR),
            ("numeric", _REBUILD_FROM_BUFFER),
        )
    },
}


def encode_latin1(text: str, encoding: str) -> bytes:
    """What `_codecs.encode` does in pickles of Python 2 and of low protocols: bytes from text."""
    return text.encode("latin1")


class ArrayUnpickler(pickle.Unpickler):
    """Reads plain Python values and numpy arrays, and refuses to call anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("_codecs", "encode"):
            return encode_latin1
        try:
            return ARRAY_GLOBALS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"refused to load {module}.{name}: a .pkl checkpoint may hold numpy arrays and "
                "plain values only. Convert it to a .pth file if you trust its origin."
            ) from None


def load_arrays(file: IO[bytes]) -> Any:
    """What a pickle of arrays holds.

    Raises:
        pickle.UnpicklingError: it holds anything else.
    """
    return ArrayUnpickler(file, encoding="latin1").load()
