from .backbone import Backbone
from .resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet

__all__ = ["Backbone", "BasicBlock", "BasicStem", "BottleneckBlock", "ResNet"]
