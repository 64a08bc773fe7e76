"""LVIS v1 with large-scale jittering, copy-paste and repeat factors."""

from .coco_lsj import dataloader
from .lvis import use_lvis

use_lvis(dataloader)
