from .backbone import Backbone
from .resnet import BasicStem, BottleneckBlock, ResNet

__all__ = ["Backbone", "BasicStem", "BottleneckBlock", "ResNet"]
