"""The subset of the detectron2 API that Co-DETR uses, for machines without upstream detectron2.

Written from the documented behaviour of detectron2 0.6; configs, checkpoints and state dicts move
freely between the two. Whatever torchvision, fvcore, iopath, omegaconf or pycocotools already
provide is called from here instead of being written again.
"""

__version__ = "0.6"
