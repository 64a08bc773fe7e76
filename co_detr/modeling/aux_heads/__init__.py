"""Auxiliary heads: one-to-many label assignments that supervise the encoder."""

from .atss import ATSSHead, atss_match
from .base import AuxHead, AuxOutput
from .dense import DenseHead
from .fcos import FCOSHead, fcos_match
from .gfl import GFLHead
from .paa import PAAHead
from .rcnn import BoxHead, FasterRCNNHead
from .retinanet import RetinaNetHead
from .rpn import RPN
from .truth import PaddedTruth

__all__ = [
    "ATSSHead",
    "AuxHead",
    "AuxOutput",
    "BoxHead",
    "DenseHead",
    "FCOSHead",
    "FasterRCNNHead",
    "GFLHead",
    "PAAHead",
    "PaddedTruth",
    "RPN",
    "RetinaNetHead",
    "atss_match",
    "fcos_match",
]
