"""Makes `detectron2` importable before any test module is collected."""

import co_detr  # noqa: F401
