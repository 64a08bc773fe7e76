"""The parts detectors are built of, and the registry that finds a whole detector by name."""

from .backbone import Backbone, ResNet
from .meta_arch import META_ARCH_REGISTRY, build_model
from .postprocessing import detector_postprocess

__all__ = [
    "META_ARCH_REGISTRY",
    "Backbone",
    "ResNet",
    "build_model",
    "detector_postprocess",
]
