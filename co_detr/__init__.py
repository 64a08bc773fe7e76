"""Co-DETR (DETRs with Collaborative Hybrid Assignments Training, ICCV 2023) on detectron2.

Importing this package makes `import detectron2` work: where upstream detectron2 is installed it is
used untouched; elsewhere the subset embedded under `co_detr/fallback` takes its place.

    detector = co_detr.load_detector("output/birds/model_best.pth")
    instances = detector("photo.jpg", threshold=0.5)
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_FALLBACK = Path(__file__).parent / "fallback"


def _make_detectron2_importable() -> None:
    """Extend `sys.path` so that `import detectron2` finds upstream's package, or else the embedded.

    A folder called detectron2 without `__init__.py`, such as the root of upstream's source code in
    the working directory, is to Python an (empty) package, which hides an upstream installed by
    `pip install -e`. It is not one to us: on `sys.path`, any real package goes before it.
    """
    if getattr(sys.modules.get("detectron2"), "__file__", None) is not None:
        return  # imported already
    sys.modules.pop("detectron2", None)  # imported, but only such a folder
    finders = [finder.find_spec for finder in sys.meta_path if hasattr(finder, "find_spec")]
    specs = [spec for find in finders if (spec := find("detectron2", None)) is not None]
    packages = [spec for spec in specs if spec.origin is not None]
    if not packages:
        sys.path.append(str(_FALLBACK))
    elif specs[0].origin is None and packages[0].origin is not None:
        sys.path.append(str(Path(packages[0].origin).parents[1]))
    importlib.invalidate_caches()


_make_detectron2_importable()


def __getattr__(name: str) -> Any:
    """`load_detector`, imported when it is first asked for: torch takes its time."""
    if name != "load_detector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from co_detr.inference.detector import load_detector

    return load_detector


def detectron2_origin() -> str:
    """Say which detectron2 is active: "upstream <version> (<folder>)" or "embedded (<folder>)".

    Upstream's source code that was not built lacks a few compiled operators, none of which Co-DETR
    needs; it is used as it is, as "upstream <version>, not compiled (<folder>)".
    """
    import detectron2

    folder = Path(detectron2.__file__).resolve().parent
    if folder.is_relative_to(_FALLBACK.resolve()):
        return f"embedded ({folder})"
    compiled = importlib.util.find_spec("detectron2._C") is not None
    return f"upstream {detectron2.__version__}{'' if compiled else ', not compiled'} ({folder})"
