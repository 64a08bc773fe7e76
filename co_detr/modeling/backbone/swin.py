"""Swin Transformer (Liu et al., ICCV 2021) as a detectron2 backbone, for images of any size.

The layers are timm's. The block and its attention are not, because the two implementations at hand
treat maps that do not divide into windows differently from the one that trained the released
weights, which pads first, lets the padding take part in attention, and shifts always: timm shifts
before it pads, and neither timm nor torchvision shifts a map smaller than a window.

Letters: N images, H and W the size of a map, C channels, M heads, A = window_size^2 tokens of a
window, B = N * (number of windows).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling.backbone import Backbone
from timm.layers import DropPath, Mlp, PatchEmbed, trunc_normal_
from timm.models.swin_transformer import PatchMerging, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F

from co_detr.ops.ms_deform_attn import is_exporting

from ..recompute import call, num_recomputed
from .initial_weights import init_linear, timm_state_dict

SWIN: dict[str, dict[str, Any]] = {
    "tiny": {
        "embed_dim": 96,
        "depths": (2, 2, 6, 2),
        "num_heads": (3, 6, 12, 24),
        "window_size": 7,
    },
    "small": {
        "embed_dim": 96,
        "depths": (2, 2, 18, 2),
        "num_heads": (3, 6, 12, 24),
        "window_size": 7,
    },
    "base": {
        "embed_dim": 128,
        "depths": (2, 2, 18, 2),
        "num_heads": (4, 8, 16, 32),
        "window_size": 12,
    },
    "large": {
        "embed_dim": 192,
        "depths": (2, 2, 18, 2),
        "num_heads": (6, 12, 24, 48),
        "window_size": 12,
    },
}
"""Sizes of the published models, as arguments of `SwinTransformer`."""

# How the released weights name what this module has, below the backbone's prefix. Ours are timm's
# names, where merging opens a stage instead of closing the one before.
OFFICIAL_RENAMES: list[tuple[str, str]] = [
    (r"^layers\.2\.downsample\.", "layers.3.downsample."),
    (r"^layers\.1\.downsample\.", "layers.2.downsample."),
    (r"^layers\.0\.downsample\.", "layers.1.downsample."),
    (r"^norm0\.", "output_norms.res2."),
    (r"^norm1\.", "output_norms.res3."),
    (r"^norm2\.", "output_norms.res4."),
    (r"^norm3\.", "output_norms.res5."),
]
# A constant of the architecture, computed here when needed.
OFFICIAL_DROPS: list[str] = [r"\.attn\.relative_position_index$"]

_STAGE_NAMES = ("res2", "res3", "res4", "res5")


def relative_position_index(window_size: int, device: torch.device) -> Tensor:
    """Where in the bias table each pair of tokens of a window finds its entry.

    Returns:
        (A, A) long; entry [i, j] numbers the offset (row_i - row_j, column_i - column_j) row-major
        among all (2 * window_size - 1)^2 offsets.
    """
    axis = torch.arange(window_size, device=device)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    row_offset = rows[:, None] - rows[None, :] + window_size - 1
    column_offset = columns[:, None] - columns[None, :] + window_size - 1
    return row_offset * (2 * window_size - 1) + column_offset


def shift_mask(height: int, width: int, window_size: int, shift: int, like: Tensor) -> Tensor:
    """Keep tokens that the cyclic shift made neighbours from attending to each other.

    Args:
        height, width: size of the padded map, multiples of `window_size`.
        window_size: side of a window, in tokens.
        shift: how far the map was rolled up and left, in tokens.
        like: gives device and dtype.

    Returns:
        (number of windows, A, A), to be added to attention logits: 0 where the two tokens come
        from the same part of the map, -100 elsewhere.
    """

    def region(size: int) -> Tensor:
        position = torch.arange(size, device=like.device)
        return (position >= size - window_size).long() + (position >= size - shift).long()

    regions = 3 * region(height)[:, None] + region(width)[None, :]
    windows = window_partition(regions[None, :, :, None], (window_size, window_size)).flatten(1)
    apart = windows[:, :, None] != windows[:, None, :]
    # Finite, as in the code that trained the weights.
    return apart.to(like.dtype) * -100.0


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias per relative position."""

    def __init__(self, channels: int, *, num_heads: int, window_size: int):
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{channels} channels do not divide into {num_heads} heads")
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window_size - 1) ** 2, num_heads)
        )
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        """
        Args:
            x: tokens of all windows, (B, A, C), the windows of one image in a row.
            index: `relative_position_index`, (A, A).
            mask: `shift_mask`, (number of windows, A, A), or None.

        Returns:
            (B, A, C)
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[index].permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(x.shape[0] // mask.shape[0], 1, 1, 1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        x = x.transpose(1, 2)
        if is_exporting():  # or a view is recorded, of a layout that is not that of other runtimes
            x = x.clone(memory_format=torch.contiguous_format)
        return self.proj(x.flatten(2))


class SwinBlock(nn.Module):
    """Window attention and MLP, each pre-normalized, residual and subject to stochastic depth."""

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        window_size: int,
        shift: int,
        mlp_ratio: float,
        drop_path: float,
    ):
        """
        Args:
            channels: width C.
            num_heads: heads M.
            window_size: side of a window, in tokens.
            shift: how far to displace the windows, in tokens; 0 for the first block of a pair.
            mlp_ratio: hidden width of the MLP over C.
            drop_path: probability to skip each of the two branches for an image, in training.
        """
        super().__init__()
        self.window_size = window_size
        self.shift = shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, num_heads=num_heads, window_size=window_size)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, hidden_features=int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        """
        Args:
            x: map, (N, H, W, C).
            index: `relative_position_index` of the window size.
            mask: `shift_mask` of the padded map; used if the block shifts.

        Returns:
            (N, H, W, C)
        """
        x = x + self.drop_path(self._attend(self.norm1(x), index, mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window = (self.window_size, self.window_size)
        x = F.pad(x, (0, 0, 0, -width % self.window_size, 0, -height % self.window_size))
        padded_height, padded_width = x.shape[1:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = window_partition(x, window).flatten(1, 2)
        windows = self.attn(windows, index, mask if self.shift else None)
        x = window_reverse(windows.unflatten(1, window), window, padded_height, padded_width)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


class SwinStage(nn.Module):
    """Blocks of one stride, after merging 2x2 tokens of the stage before."""

    def __init__(
        self,
        channels: int,
        *,
        merge: bool,
        num_heads: int,
        window_size: int,
        mlp_ratio: float,
        drop_paths: Sequence[float],
        num_checkpointed: int,
    ):
        """
        Args:
            channels: width C of this stage.
            merge: begin by merging 2x2 tokens of C / 2 channels.
            num_heads, window_size, mlp_ratio: as in `SwinBlock`.
            drop_paths: stochastic depth of each block; their number is the depth.
            num_checkpointed: so many of the first blocks keep only their input.
        """
        super().__init__()
        self.window_size = window_size
        self.num_checkpointed = num_checkpointed
        self.downsample = PatchMerging(channels // 2, channels) if merge else nn.Identity()
        self.blocks = nn.ModuleList(
            SwinBlock(
                channels,
                num_heads=num_heads,
                window_size=window_size,
                shift=0 if i % 2 == 0 else window_size // 2,
                mlp_ratio=mlp_ratio,
                drop_path=drop_path,
            )
            for i, drop_path in enumerate(drop_paths)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C), or (N, ceil(H / 2), ceil(W / 2), C) from C / 2 channels."""
        x = self.downsample(x)
        height, width = (size + -size % self.window_size for size in x.shape[1:3])
        index = relative_position_index(self.window_size, x.device)
        mask = shift_mask(height, width, self.window_size, self.window_size // 2, x)
        for number, block in enumerate(self.blocks):
            recompute = self.training and number < self.num_checkpointed
            x = call(block, x, index, mask, recompute=recompute)
        return x


class SwinTransformer(Backbone):
    """Swin Transformer with a LayerNorm of its own on every map it returns.

    Maps are called "res2" to "res5" (strides 4 to 32), as the stages of detectron2's ResNet. An
    image of any size is accepted: it is padded with zeros to a multiple of the patch size, and
    every map is ceil(size / 2) of the one before.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        out_features: Sequence[str] = ("res3", "res4", "res5"),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        patch_size: int = 4,
        freeze_at: int = 0,
        activation_checkpointing: bool | int = False,
        pretrained: str | None = None,
        pretrained_file: str | Path | None = None,
    ):
        """
        Args:
            embed_dim: width of the first stage; doubles from stage to stage.
            depths: blocks per stage, four of them or fewer.
            num_heads: heads per stage.
            window_size: side of a window, in tokens.
            out_features: maps to return. Stages beyond the last one are not built.
            mlp_ratio: hidden width of the MLPs over their input's.
            drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first.
            patch_size: pixels per token of the first stage. Strides follow; names do not.
            freeze_at: 1 freezes the patch embedding, 2 also the stage of "res2", and so on up to 5;
                what is frozen gets no gradient and stays in evaluation mode.
            activation_checkpointing: recompute each block in the backward pass, to save memory; or,
                a number, so many of the first blocks.
            pretrained: initialize from the ImageNet weights of this timm model, for instance
                "swin_large_patch4_window12_384.ms_in22k".
            pretrained_file: read the weights of `pretrained` from this file (timm's or the
                original release's format) instead of downloading them.
        """
        super().__init__()
        names = _STAGE_NAMES[: len(depths)]
        if not out_features or any(name not in names for name in out_features):
            raise ValueError(f"out_features {list(out_features)} must be among {list(names)}")
        if len(depths) != len(num_heads) or len(depths) > len(_STAGE_NAMES):
            raise ValueError(
                f"depths {tuple(depths)} and num_heads {tuple(num_heads)} must name the same "
                f"stages, at most {len(_STAGE_NAMES)}"
            )
        if not 0 <= freeze_at <= len(depths) + 1:
            raise ValueError(f"freeze_at={freeze_at} is not between 0 and {len(depths) + 1}")
        if pretrained_file is not None and pretrained is None:
            raise ValueError("pretrained_file needs `pretrained`, the timm model it belongs to")
        self.patch_embed = PatchEmbed(
            img_size=None,
            patch_size=patch_size,
            embed_dim=embed_dim,
            norm_layer=nn.LayerNorm,
            flatten=False,
            output_fmt="NHWC",
            dynamic_img_pad=True,
        )
        num_stages = 1 + max(names.index(name) for name in out_features)
        num_blocks = sum(depths)
        num_checkpointed = num_recomputed(activation_checkpointing, num_blocks)
        self.layers = nn.ModuleList()
        for i in range(num_stages):
            first = sum(depths[:i])
            self.layers.append(
                SwinStage(
                    embed_dim * 2**i,
                    merge=i > 0,
                    num_heads=num_heads[i],
                    window_size=window_size,
                    mlp_ratio=mlp_ratio,
                    drop_paths=[
                        drop_path_rate * block / max(num_blocks - 1, 1)
                        for block in range(first, first + depths[i])
                    ],
                    num_checkpointed=num_checkpointed - first,
                )
            )
        self._out_features = [name for name in names if name in out_features]
        self._out_feature_channels = {n: embed_dim * 2**i for i, n in enumerate(names)}
        self._out_feature_strides = {n: patch_size * 2**i for i, n in enumerate(names)}
        self.output_norms = nn.ModuleDict(
            {name: nn.LayerNorm(self._out_feature_channels[name]) for name in self._out_features}
        )
        self.apply(init_linear)
        if pretrained is not None:
            self._load_timm(pretrained, pretrained_file)
        self._freeze(freeze_at)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: (N, 3, H, W), normalized.

        Returns:
            Maps by name, (N, C, ceil(H / stride), ceil(W / stride)), fine to coarse.
        """
        x = self.patch_embed(images)
        maps = {}
        for name, stage in zip(_STAGE_NAMES, self.layers):
            x = stage(x)
            if name in self.output_norms:
                # The next stage goes on from the map without this norm.
                maps[name] = self.output_norms[name](x).permute(0, 3, 1, 2).contiguous()
        return maps

    def train(self, mode: bool = True) -> "SwinTransformer":
        """Switch modes, leaving frozen stages in evaluation mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self._freeze_at == 0:
            return []
        frozen: list[nn.Module] = [self.patch_embed, *self.layers[: self._freeze_at - 1]]
        names = _STAGE_NAMES[: self._freeze_at - 1]
        return frozen + [self.output_norms[name] for name in names if name in self.output_norms]

    def _freeze(self, freeze_at: int) -> None:
        self._freeze_at = freeze_at
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train(self.training)

    def _load_timm(self, model_name: str, file: str | Path | None) -> None:
        """Copy the weights of a timm classification model; output norms keep theirs."""
        # Without classifier and final norm, and without the stages that were not built here.
        unused = re.compile(rf"norm\.|head\.|layers\.[{len(self.layers)}-9]\.")
        source = timm_state_dict(model_name, file)
        weights = {k: v for k, v in source.items() if not unused.match(k)}
        own = {k: v for k, v in self.state_dict().items() if k.startswith("output_norms.")}
        self.load_state_dict(weights | own)
