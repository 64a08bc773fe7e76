"""Necks: from the backbone's feature maps to levels of one width, fine to coarse."""

from collections.abc import Mapping, Sequence

from detectron2.layers import Conv2d
from torch import Tensor, nn


class ChannelMapper(nn.Module):
    """Brings each backbone map to the transformer's width and appends coarser levels.

    Each map goes through a 1x1 convolution and GroupNorm, without activation. Missing levels come
    from 3x3 stride-2 convolutions with GroupNorm: the first reads the coarsest *backbone* map (not
    its mapped version), each further one the extra level before it (Deformable DETR, section 4.1).
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_outs: int = 4,
        num_groups: int = 32,
    ):
        """
        Args:
            in_features: names of the backbone maps to use, fine to coarse.
            in_channels: their widths, in the same order.
            out_channels: width C of every level; a multiple of `num_groups`.
            num_outs: number of levels to return, at least `len(in_features)`.
            num_groups: groups of each GroupNorm.
        """
        super().__init__()
        if not in_features or len(in_features) != len(in_channels):
            raise ValueError(
                f"in_features {list(in_features)} and in_channels {list(in_channels)} must be "
                "non-empty and pair up one to one"
            )
        if num_outs < len(in_features):
            raise ValueError(
                f"num_outs={num_outs} is less than the {len(in_features)} in_features; "
                "drop some of the features or raise num_outs"
            )
        self.in_features = tuple(in_features)
        self.convs = nn.ModuleList(
            Conv2d(
                channels,
                out_channels,
                kernel_size=1,
                bias=False,
                norm=nn.GroupNorm(num_groups, out_channels),
            )
            for channels in in_channels
        )
        self.extra_convs = nn.ModuleList(
            Conv2d(
                in_channels[-1] if i == 0 else out_channels,
                out_channels,
                kernel_size=3,
                stride=2,
                padding=1,
                bias=False,
                norm=nn.GroupNorm(num_groups, out_channels),
            )
            for i in range(num_outs - len(in_features))
        )
        for conv in [*self.convs, *self.extra_convs]:
            nn.init.xavier_uniform_(conv.weight)

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """
        Args:
            features: backbone maps by name, (N, channels, H, W); names not in `in_features` are
                ignored.

        Returns:
            `num_outs` maps (N, C, H_l, W_l), fine to coarse. An extra level has ceil(size / 2) of
            the level before it.
        """
        inputs = [features[name] for name in self.in_features]
        levels = [conv(x) for conv, x in zip(self.convs, inputs)]
        coarsest = inputs[-1]
        for conv in self.extra_convs:
            coarsest = conv(coarsest)
            levels.append(coarsest)
        return levels
