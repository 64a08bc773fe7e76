"""Auxiliary heads: one-to-many label assignments that supervise the encoder."""

from .atss import ATSSHead, atss_match
from .base import AuxHead, AuxOutput
from .dense import DenseHead
from .rcnn import BoxHead, FasterRCNNHead
from .retinanet import RetinaNetHead
from .rpn import RPN

__all__ = [
    "ATSSHead",
    "AuxHead",
    "AuxOutput",
    "BoxHead",
    "DenseHead",
    "FasterRCNNHead",
    "RPN",
    "RetinaNetHead",
    "atss_match",
]
