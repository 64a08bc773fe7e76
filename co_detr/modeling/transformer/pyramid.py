"""From encoder memory back to a feature pyramid for the auxiliary heads."""

from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F

from .encoder import EncoderMemory


class EncoderPyramid(nn.Module):
    """The encoder's levels as maps, plus finer and coarser ones learned (paper, section 3.2).

    Args:
        embed_dim: C.
        num_extra: coarser levels, each from the one before by a 3x3 convolution of stride 2 with
            group norm.
        num_finer: finer levels, each from the one after by bilinear upsampling to twice its size
            and a 3x3 convolution with group norm; for encoders of a single scale.
        num_groups: groups of the norm.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_extra: int = 1,
        num_finer: int = 0,
        num_groups: int = 32,
    ):
        super().__init__()

        def convolutions(count: int, stride: int) -> nn.ModuleList:
            return nn.ModuleList(
                Conv2d(
                    embed_dim,
                    embed_dim,
                    kernel_size=3,
                    stride=stride,
                    padding=1,
                    norm=nn.GroupNorm(num_groups, embed_dim),
                )
                for _ in range(count)
            )

        self.extra = convolutions(num_extra, stride=2)
        self.finer = convolutions(num_finer, stride=1)

    def forward(self, memory: EncoderMemory) -> list[Tensor]:
        """Return maps (N, C, H_l, W_l), fine to coarse.

        A cell of a finer level is exactly a quarter of one below it, so that such a level may reach
        beyond the images by a cell more than a backbone's map of its stride.
        """
        maps = memory.maps()
        for conv in self.finer:
            upsampled = F.interpolate(maps[0], scale_factor=2, mode="bilinear", align_corners=False)
            maps.insert(0, conv(upsampled))
        for conv in self.extra:
            maps.append(conv(maps[-1]))
        return maps
