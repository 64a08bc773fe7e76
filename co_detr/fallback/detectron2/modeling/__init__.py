"""The parts detectors are built of, and the registry that finds a whole detector by name."""

from .anchor_generator import DefaultAnchorGenerator
from .backbone import Backbone, ResNet
from .box_regression import Box2BoxTransform
from .matcher import Matcher
from .meta_arch import META_ARCH_REGISTRY, build_model
from .poolers import ROIPooler
from .postprocessing import detector_postprocess
from .sampling import subsample_labels

__all__ = [
    "META_ARCH_REGISTRY",
    "Backbone",
    "Box2BoxTransform",
    "DefaultAnchorGenerator",
    "Matcher",
    "ROIPooler",
    "ResNet",
    "build_model",
    "detector_postprocess",
    "subsample_labels",
]
