"""The subset of the detectron2 API that Co-DETR uses, for machines without upstream detectron2.

Written from the documented behaviour of detectron2 0.6; configs, checkpoints and state dicts are
those of detectron2. Whatever torchvision, fvcore, iopath, omegaconf or pycocotools already provide
is called from here instead of being written again.
"""

import sys

from ._not_embedded import explain_missing_parts as _explain_missing_parts

__version__ = "0.6"

_explain_missing_parts(sys.modules[__name__])
