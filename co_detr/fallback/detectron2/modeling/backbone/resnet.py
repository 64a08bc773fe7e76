"""Residual networks (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016).

Parameter names: `stem.conv1.weight`, `stem.conv1.norm.weight`, `res2.0.conv1.weight`,
`res2.0.shortcut.weight`, ... : each convolution owns the norm that follows it.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm

from .backbone import Backbone

Norm = str | Callable[[int], nn.Module]

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def _conv(
    in_channels: int, out_channels: int, kernel_size: int, norm: Norm, **kwargs: int
) -> Conv2d:
    """A convolution without bias, followed by a norm."""
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        bias=False,
        norm=get_norm(norm, out_channels),
        **kwargs,
    )


def _initialize(*convs: Conv2d | None) -> None:
    """Draw the weights of He et al. 2015, in the order given.

    detectron2 does so when all layers of a block are made, which draw random numbers themselves:
    the same seed gives the same network only in the same order.
    """
    for conv in convs:
        if conv is not None:
            # fvcore's `c2_msra_fill` is this; importing it compiles functions nobody calls
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


class BasicStem(CNNBlockBase):
    """7x7 convolution and 3x3 max pooling, both with stride 2: (N, C, H, W) to stride 4."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: Norm = "BN"):
        super().__init__(in_channels, out_channels, stride=4)
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2, padding=3)
        _initialize(self.conv1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class BasicBlock(CNNBlockBase):
    """Two 3x3 convolutions and a shortcut: the block of depths 18 and 34."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: Norm = "BN"):
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = (
            _conv(in_channels, out_channels, 1, norm, stride=stride)
            if in_channels != out_channels
            else None
        )
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride, padding=1)
        self.conv2 = _conv(out_channels, out_channels, 3, norm, padding=1)
        _initialize(self.conv1, self.conv2, self.shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(F.relu_(self.conv1(x)))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BottleneckBlock(CNNBlockBase):
    """1x1, 3x3 and 1x1 convolution and a shortcut: the block of depths from 50 on.

    Args:
        bottleneck_channels: width of the 3x3 convolution.
        stride_in_1x1: put the stride in the first 1x1 convolution, as the original paper and
            Caffe2's weights do, instead of in the 3x3 one, as torchvision's weights do.
        num_groups, dilation: of the 3x3 convolution; the dilation keeps the size of the map.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: Norm = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ):
        super().__init__(in_channels, out_channels, stride)
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = (
            _conv(in_channels, out_channels, 1, norm, stride=stride)
            if in_channels != out_channels
            else None
        )
        self.conv1 = _conv(in_channels, bottleneck_channels, 1, norm, stride=stride_1x1)
        self.conv2 = _conv(
            bottleneck_channels,
            bottleneck_channels,
            3,
            norm,
            stride=stride_3x3,
            padding=dilation,
            dilation=dilation,
            groups=num_groups,
        )
        self.conv3 = _conv(bottleneck_channels, out_channels, 1, norm)
        _initialize(self.conv1, self.conv2, self.conv3, self.shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv3(F.relu_(self.conv2(F.relu_(self.conv1(x)))))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class ResNet(Backbone):
    """A stem, stages called res2, res3, ..., and optionally a classifier called linear.

    Args:
        stem: from the image to the input of the first stage; has `out_channels` and `stride`.
        stages: for each stage its blocks, see `make_stage`.
        num_classes: of the classifier (average pooling and a linear layer); None for no classifier.
        out_features: which of "stem", "res2", ..., "linear" to return; by default the last one.
            Stages that none of them needs are not built.
        freeze_at: see `freeze`.

    Raises:
        AssertionError: a name in `out_features` is none of this network's.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Sequence[nn.Module]],
        num_classes: int | None = None,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
    ):
        super().__init__()
        names = [f"res{number}" for number in range(2, len(stages) + 2)]
        if out_features is None:
            out_features = [names[-1]] if num_classes is None else ["linear"]
        possible = ["stem", *names] + ([] if num_classes is None else ["linear"])
        unknown = [name for name in out_features if name not in possible]
        assert not unknown, f"unknown out_features {unknown}: choose from {possible}"
        if "linear" not in out_features:
            wanted = [number for number, name in enumerate(names, 1) if name in out_features]
            names = names[: max(wanted, default=0)]

        self.stem = stem
        self.stage_names = tuple(names)
        self.num_classes = num_classes
        self._out_features = list(out_features)
        self._out_feature_channels = {"stem": stem.out_channels}
        self._out_feature_strides = {"stem": stem.stride}
        channels, stride = stem.out_channels, stem.stride
        for name, blocks in zip(names, stages):
            self.add_module(name, nn.Sequential(*blocks))
            channels = blocks[-1].out_channels
            for block in blocks:
                stride *= block.stride
            self._out_feature_channels[name] = channels
            self._out_feature_strides[name] = stride
        if "linear" in out_features:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.linear = nn.Linear(channels, num_classes)
            nn.init.normal_(self.linear.weight, std=0.01)
        self.freeze(freeze_at)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images (N, C, H, W) to the wanted features.

        Returns:
            Maps (N, C_name, H / stride, W / stride) by name; "linear" is (N, num_classes) logits.
        """
        assert x.dim() == 4, f"expected images (N, C, H, W), got {tuple(x.shape)}"
        outputs = {"stem": (x := self.stem(x))}
        for name in self.stage_names:
            outputs[name] = (x := getattr(self, name)(x))
        if "linear" in self._out_features:
            outputs["linear"] = self.linear(self.avgpool(x).flatten(1))
        return {name: outputs[name] for name in self._out_features}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each returned feature; the classifier's scores have no stride."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels.get(name, self.num_classes),
                stride=self._out_feature_strides.get(name),
            )
            for name in self._out_features
        }

    def freeze(self, freeze_at: int = 0) -> "ResNet":
        """Exclude the first `freeze_at` parts from training: 1 is the stem, 2 stem and res2, ...

        Returns:
            The network itself.
        """
        if freeze_at >= 1:
            self.stem.freeze()
        for number, name in enumerate(self.stage_names, 2):
            if freeze_at >= number:
                for block in getattr(self, name):
                    block.freeze()
        return self

    @staticmethod
    def make_stage(
        block_class: type[nn.Module],
        num_blocks: int,
        *,
        in_channels: int,
        out_channels: int,
        **kwargs: object,
    ) -> list[nn.Module]:
        """Build the blocks of one stage; only the first one sees `in_channels`.

        Args:
            kwargs: go to every block; `stride_per_block=[2, 1, 1]` gives block i the i-th value as
                `stride`, and so for every other name ending in `_per_block`.

        Raises:
            AssertionError: a `_per_block` list is not `num_blocks` long, or its argument is also
                given without the suffix.
        """
        suffix = "_per_block"
        per_block = {k.removesuffix(suffix): v for k, v in kwargs.items() if k.endswith(suffix)}
        shared = {k: v for k, v in kwargs.items() if not k.endswith(suffix)}
        for name, values in per_block.items():
            assert (
                len(values) == num_blocks
            ), f"{name}{suffix} has {len(values)} values for {num_blocks} blocks"
            assert name not in shared, f"give {name} or {name}{suffix}, not both"
        blocks = []
        for i in range(num_blocks):
            own = {name: values[i] for name, values in per_block.items()}
            blocks.append(block_class(in_channels, out_channels, **own, **shared))
            in_channels = out_channels
        return blocks

    @staticmethod
    def make_default_stages(
        depth: int, block_class: type[nn.Module] | None = None, **kwargs: object
    ) -> list[list[nn.Module]]:
        """Build the four stages of the standard ResNet-18, 34, 50, 101 or 152.

        Args:
            block_class: instead of `BasicBlock` (below depth 50) or `BottleneckBlock`.
            kwargs: go to every block, for instance `norm` or `stride_in_1x1`.

        Raises:
            KeyError: there is no standard network of this depth.
        """
        if depth not in BLOCKS_PER_STAGE:
            raise KeyError(f"no ResNet of depth {depth}: choose from {list(BLOCKS_PER_STAGE)}")
        widths = [64, 128, 256, 512] if depth < 50 else [256, 512, 1024, 2048]
        if block_class is None:
            block_class = BasicBlock if depth < 50 else BottleneckBlock
        stages = []
        in_channels = 64
        for blocks, width, stride in zip(BLOCKS_PER_STAGE[depth], widths, (1, 2, 2, 2)):
            if depth >= 50:
                kwargs["bottleneck_channels"] = width // 4
            stages.append(
                ResNet.make_stage(
                    block_class,
                    blocks,
                    stride_per_block=[stride] + [1] * (blocks - 1),
                    in_channels=in_channels,
                    out_channels=width,
                    **kwargs,
                )
            )
            in_channels = width
        return stages
