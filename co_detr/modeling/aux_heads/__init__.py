"""Auxiliary heads: one-to-many label assignments that supervise the encoder."""

from .atss import ATSSHead, atss_match
from .base import AuxHead, AuxOutput
from .dense import DenseHead
from .rcnn import BoxHead, FasterRCNNHead
from .rpn import RPN
from .truth import PaddedTruth

__all__ = [
    "ATSSHead",
    "AuxHead",
    "AuxOutput",
    "BoxHead",
    "DenseHead",
    "FasterRCNNHead",
    "PaddedTruth",
    "RPN",
    "atss_match",
]
