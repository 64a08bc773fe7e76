"""What detectron2 has and the embedded subset has not: an import of it says what to do.

Whoever only asks whether something is there (`hasattr`, `getattr` with a default,
`importlib.util.find_spec`) gets the answer that Python gives of any package: it is not.
"""

import sys
from collections.abc import Sequence
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from opcode import opmap
from types import FrameType, ModuleType
from typing import Any, NoReturn

REMEDY = (
    "not part of the subset of detectron2 that is embedded in co_detr. Where detectron2 itself has "
    "it, install detectron2, as docs/detectron2.md of co_detr says"
)


def explain_missing_parts(package: ModuleType) -> None:
    """Let imports of what a package, or a module inside of it, does not have end in `REMEDY`."""
    _explain_missing_names(package)
    sys.meta_path.insert(0, _Finder(f"{package.__name__}."))


def refuse(function: str, **options: Any) -> None:
    """Raise ValueError for options of upstream's that are set, and that the subset has not."""
    for name, value in options.items():
        if value:
            raise ValueError(f"{function}({name}={value!r}): {name} is {REMEDY}")


class _Finder:
    """Finds the modules of a package as Python does, and has something to say of the others."""

    def __init__(self, prefix: str):
        self._prefix = prefix

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(self._prefix):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            if isinstance(spec.loader, SourceFileLoader):
                spec.loader = _Loader(spec.loader.name, spec.loader.path)
            return spec
        # above this frame is that of `_find_spec`, which both an import and a question end up in
        if sys._getframe(2).f_globals.get("__name__") == "importlib.util":
            return None
        raise ModuleNotFoundError(f"No module named {name!r}: {REMEDY}", name=name)


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        _explain_missing_names(module)
        super().exec_module(module)


def _explain_missing_names(module: ModuleType) -> None:
    module.__dict__["__getattr__"] = partial(_missing, module.__name__)


def _missing(module: str, name: str) -> NoReturn:
    """The `__getattr__` of a module: an ImportError for `from module import name`."""
    if name.startswith("__"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    if _imports_a_name(sys._getframe(1)):
        raise ImportError(f"cannot import name {name!r} from {module!r}: {REMEDY}", name=module)
    raise AttributeError(f"module {module!r} has no attribute {name!r}: {REMEDY}")


def _imports_a_name(frame: FrameType) -> bool:
    """Whether a frame is in the middle of a `from ... import ...`."""
    code = frame.f_code.co_code
    return frame.f_lasti >= 0 and code[frame.f_lasti] == opmap["IMPORT_FROM"]
