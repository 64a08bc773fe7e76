"""ResNet-18 of base width 24, trained from scratch: the backbone of the digits models."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock


def _stage(stride, in_channels, out_channels):
    return L(ResNet.make_stage)(
        block_class=BasicBlock,
        num_blocks=2,
        stride_per_block=[stride, 1],
        in_channels=in_channels,
        out_channels=out_channels,
        norm="BN",
    )


backbone = L(ResNet)(
    stem=L(BasicStem)(in_channels=3, out_channels=24, norm="BN"),
    stages=[_stage(1, 24, 24), _stage(2, 24, 48), _stage(2, 48, 96), _stage(2, 96, 192)],
    out_features=["res3", "res4", "res5"],
    freeze_at=0,
)
