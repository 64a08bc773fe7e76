"""From encoder memory back to a feature pyramid for the auxiliary heads."""

from detectron2.layers import Conv2d
from torch import Tensor, nn

from .encoder import EncoderMemory


class EncoderPyramid(nn.Module):
    """The encoder's levels as maps, plus coarser ones learned on the coarsest (paper, section 3.2).

    Args:
        embed_dim: C.
        num_extra: levels added by a 3x3 convolution of stride 2 with group norm.
        num_groups: groups of the norm.
    """

    def __init__(self, *, embed_dim: int = 256, num_extra: int = 1, num_groups: int = 32):
        super().__init__()
        self.extra = nn.ModuleList(
            Conv2d(
                embed_dim,
                embed_dim,
                kernel_size=3,
                stride=2,
                padding=1,
                norm=nn.GroupNorm(num_groups, embed_dim),
            )
            for _ in range(num_extra)
        )

    def forward(self, memory: EncoderMemory) -> list[Tensor]:
        """Return maps (N, C, H_l, W_l), fine to coarse."""
        maps = memory.maps()
        for conv in self.extra:
            maps.append(conv(maps[-1]))
        return maps
