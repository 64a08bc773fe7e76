"""Necks: from the backbone's feature maps to levels of one width, fine to coarse."""

from collections.abc import Mapping, Sequence

from detectron2.layers import Conv2d
from timm.layers import LayerNorm2d
from torch import Tensor, nn

# How the released weights name what these modules have, below the neck's prefix.
OFFICIAL_RENAMES: list[tuple[str, str]] = [
    (r"^(convs|extra_convs)\.(\d+)\.conv\.", r"\1.\2."),
    (r"^(convs|extra_convs)\.(\d+)\.gn\.", r"\1.\2.norm."),
    (r"^p(\d+)\.", r"levels.p\1."),
]


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
        num_groups: int | None = 32,
        bias: bool = False,
    ):
        """
        Args:
            in_features: names of the backbone maps to use, fine to coarse.
            in_channels: their widths, in the same order.
            out_channels: width C of every level; a multiple of `num_groups`.
            num_outs: number of levels to return, at least `len(in_features)`.
            num_groups: groups of each GroupNorm; None for convolutions without norm.
            bias: whether convolutions have one; those without norm need it.
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

        def norm() -> nn.Module | None:
            return None if num_groups is None else nn.GroupNorm(num_groups, out_channels)

        self.convs = nn.ModuleList(
            Conv2d(channels, out_channels, kernel_size=1, bias=bias, norm=norm())
            for channels in in_channels
        )
        self.extra_convs = nn.ModuleList(
            Conv2d(
                in_channels[-1] if i == 0 else out_channels,
                out_channels,
                kernel_size=3,
                stride=2,
                padding=1,
                bias=bias,
                norm=norm(),
            )
            for i in range(num_outs - len(in_features))
        )
        for conv in [*self.convs, *self.extra_convs]:
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

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


class SimpleFeaturePyramid(nn.Module):
    """Levels of several strides from the one map of a plain vision transformer (ViTDet, 2022).

    Level l has stride 2^l. It starts from the map of stride 16, upsampled (nearest neighbour, then
    a 3x3 convolution that halves the width) or downsampled (3x3 max pooling of stride 2, then 3x3
    convolutions of stride 2 that keep it), and ends in a 1x1 and a 3x3 convolution of the output
    width. A LayerNorm over the channels follows every convolution, and a GELU all but the last.
    This differs from the paper's pyramid as the released ViT-L models do: those upsample without
    transposed convolutions, and make their coarsest level by a convolution.
    """

    def __init__(
        self,
        *,
        in_feature: str = "last_feat",
        in_channels: int = 1024,
        out_channels: int = 256,
        min_level: int = 2,
        max_level: int = 6,
    ):
        """
        Args:
            in_feature: name of the backbone's map, which must have stride 16.
            in_channels: its width.
            out_channels: width C of every level.
            min_level, max_level: the finest and coarsest level to return, log2 of their strides.
        """
        super().__init__()
        if min_level > max_level:
            raise ValueError(f"min_level={min_level} is above max_level={max_level}")
        finest = 2 ** max(4 - min_level, 0)
        if in_channels % finest:
            raise ValueError(
                f"in_channels={in_channels} cannot be halved down to level {min_level}; use a "
                f"multiple of {finest}"
            )
        self.in_feature = in_feature
        self.levels = nn.ModuleDict(
            {
                f"p{level}": _pyramid_level(level - 4, in_channels, out_channels)
                for level in range(min_level, max_level + 1)
            }
        )

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """
        Args:
            features: backbone maps by name; only `in_feature` is read, (N, channels, H, W).

        Returns:
            Maps (N, C, H_l, W_l), fine to coarse: sizes double below level 4 and halve, rounded
            up, above it.
        """
        x = features[self.in_feature]
        return [level(x) for level in self.levels.values()]


def _pyramid_level(octaves: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """One level of the pyramid, `octaves` halvings of the size (negative: doublings) away."""
    layers: list[nn.Module] = []

    def convolve(width: int, kernel_size: int, stride: int = 1) -> None:
        nonlocal in_channels
        padding = kernel_size // 2
        layers.extend(
            [
                nn.Conv2d(in_channels, width, kernel_size, stride, padding, bias=False),
                LayerNorm2d(width, eps=1e-6),
                nn.GELU(),
            ]
        )
        in_channels = width

    for _ in range(-octaves):
        layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
        convolve(in_channels // 2, 3)
    if octaves > 0:
        layers.append(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
    for _ in range(octaves - 1):
        convolve(in_channels, 3, stride=2)
    convolve(out_channels, 1)
    convolve(out_channels, 3)
    return nn.Sequential(*layers[:-1])
