"""Co-DETR (DETRs with Collaborative Hybrid Assignments Training, ICCV 2023) on detectron2.

Importing this package makes `import detectron2` work: where upstream detectron2 is installed it is
used untouched; elsewhere the subset embedded under `co_detr/fallback` takes its place.
"""

import importlib.util
import sys
from pathlib import Path

__version__ = "0.1.0"

_FALLBACK = Path(__file__).parent / "fallback"

if importlib.util.find_spec("detectron2") is None:
    sys.path.append(str(_FALLBACK))


def detectron2_origin() -> str:
    """Say which detectron2 is active: "upstream <version> (<folder>)" or "embedded (<folder>)"."""
    import detectron2

    folder = Path(detectron2.__file__).resolve().parent
    if folder.is_relative_to(_FALLBACK.resolve()):
        return f"embedded ({folder})"
    return f"upstream {detectron2.__version__} ({folder})"
