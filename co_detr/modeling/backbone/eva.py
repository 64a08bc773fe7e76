"""EVA-02 vision transformer (Fang et al., 2023) as a plain detection backbone (ViTDet, 2022).

Most blocks attend within windows, a few globally. What sets EVA-02 apart from a plain ViT: rotary
position embeddings on queries and keys, a SwiGLU MLP with a LayerNorm before its last projection,
and no bias on keys. timm has the model for classification, but neither windows nor maps that do not
divide into them; the parts are timm's, the block is not.

Letters: N images, H and W the size of the map in tokens, C channels, M heads, D = C / M.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling.backbone import Backbone
from timm.layers import (
    DropPath,
    SwiGLU,
    apply_rot_embed_cat,
    build_rotary_pos_embed,
    trunc_normal_,
)
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F

from ..recompute import call, num_recomputed
from .initial_weights import init_linear, timm_state_dict

EVA02_LARGE: dict[str, Any] = {
    "embed_dim": 1024,
    "depth": 24,
    "num_heads": 16,
    "mlp_ratio": 4 * 2 / 3,
    "patch_size": 16,
    "pretrained_grid": 32,
}
"""EVA-02 ViT-L/16, pretrained on 512x512 pixels, as arguments of `EvaViT`."""


def _without_class_token(pos_embed: Tensor) -> Tensor:
    """(1, 1 + G * G, C) with the class token first -> (1, G, G, C)."""
    side = math.isqrt(pos_embed.shape[1] - 1)
    return pos_embed[:, 1:].unflatten(1, (side, side))


# How the released weights name what this module has, below the backbone's prefix.
OFFICIAL_RENAMES: list[tuple[str, str]] = [
    (r"^blocks\.(\d+)\.attn\.([qv])_bias$", r"blocks.\1.attn.\2_proj.bias"),
    (r"^blocks\.(\d+)\.mlp\.w1\.", r"blocks.\1.mlp.fc1_g."),
    (r"^blocks\.(\d+)\.mlp\.w2\.", r"blocks.\1.mlp.fc1_x."),
    (r"^blocks\.(\d+)\.mlp\.w3\.", r"blocks.\1.mlp.fc2."),
    (r"^blocks\.(\d+)\.mlp\.ffn_ln\.", r"blocks.\1.mlp.norm."),
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"^out_norm\.", "output_norm."),
]
# Tensors of another form, by official name.
OFFICIAL_TRANSFORMS: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    (r"^pos_embed$", _without_class_token),
]
# Tables of sines and cosines, computed here for the map at hand.
OFFICIAL_DROPS: list[str] = [r"(^|\.)rope(_win|_glb)?\.freqs_(cos|sin)$"]


def get_eva_lr_decay_rate(
    name: str, lr_decay_rate: float = 0.8, num_layers: int = 24, prefix: str = "backbone."
) -> float:
    """Learning rate factor of a parameter under layer-wise decay (Bao et al., BEiT, 2022).

    The embeddings are layer 0, block i is layer i + 1, and all that follows the blocks, also
    outside the backbone, keeps the full rate. For `get_default_optimizer_params`:
    `lr_factor_func=partial(get_eva_lr_decay_rate, lr_decay_rate=0.8, num_layers=24)`.

    Args:
        name: full name of the parameter in the model.
        lr_decay_rate: factor from one layer to the layer before it.
        num_layers: number of blocks.
        prefix: what the names of the backbone's parameters begin with.

    Returns:
        lr_decay_rate ** (number of layers after this one).
    """
    layer = num_layers + 1
    if name.startswith(prefix):
        below = name[len(prefix) :]
        if below.startswith(("pos_embed", "patch_embed.")):
            layer = 0
        elif match := re.match(r"blocks\.(\d+)\.", below):
            layer = int(match[1]) + 1
    return lr_decay_rate ** (num_layers + 1 - layer)


class EvaAttention(nn.Module):
    """Multi-head self-attention with rotary positions and no bias on keys."""

    def __init__(self, channels: int, *, num_heads: int):
        super().__init__()
        # Rotary positions rotate pairs of channels, half of them by row, half by column.
        if channels % (4 * num_heads):
            raise ValueError(
                f"{channels} channels over {num_heads} heads do not make the channels of a head a "
                "multiple of 4"
            )
        self.num_heads = num_heads
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels, bias=False)
        self.v_proj = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """
        Args:
            x: tokens of a window or a whole map, (B, A, C).
            rope: `EvaViT.rotary_table` of the same A tokens, (A, 2 D).

        Returns:
            (B, A, C)
        """
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        # The table is float32, so that half precision would not survive the rotation.
        q = apply_rot_embed_cat(q, rope).type_as(v)
        k = apply_rot_embed_cat(k, rope).type_as(v)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class EvaBlock(nn.Module):
    """Attention, within windows or global, and SwiGLU MLP: pre-normalized, residual."""

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        mlp_ratio: float,
        window_size: int,
        drop_path: float,
    ):
        """
        Args:
            channels: width C.
            num_heads: heads M.
            mlp_ratio: hidden width of the MLP over C, before rounding down.
            window_size: side of a window, in tokens; 0 for global attention.
            drop_path: probability to skip each of the two branches for an image, in training.
        """
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.window_size = window_size
        self.norm1 = norm(channels)
        self.attn = EvaAttention(channels, num_heads=num_heads)
        self.norm2 = norm(channels)
        self.mlp = SwiGLU(
            channels,
            hidden_features=int(channels * mlp_ratio),
            norm_layer=norm,  # type: ignore[arg-type]  # anything that makes a layer of a width
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """
        Args:
            x: map, (N, H, W, C).
            rope: `EvaViT.rotary_table` of a window, (window_size^2, 2 D), or of the whole map,
                (H W, 2 D).

        Returns:
            (N, H, W, C)
        """
        attend = self._attend_in_windows if self.window_size else self._attend_globally
        x = x + self.drop_path(attend(self.norm1(x), rope))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend_globally(self, x: Tensor, rope: Tensor) -> Tensor:
        return self.attn(x.flatten(1, 2), rope).unflatten(1, x.shape[1:3])

    def _attend_in_windows(self, x: Tensor, rope: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window = (self.window_size, self.window_size)
        # The padding is attended to: the released weights were trained that way.
        x = F.pad(x, (0, 0, 0, -width % self.window_size, 0, -height % self.window_size))
        padded_height, padded_width = x.shape[1:3]
        windows = self.attn(window_partition(x, window).flatten(1, 2), rope)
        x = window_reverse(windows.unflatten(1, window), window, padded_height, padded_width)
        return x[:, :height, :width]


class EvaViT(Backbone):
    """EVA-02 vision transformer that returns one map, after a last LayerNorm.

    The map is called "last_feat", as that of detectron2's ViT. Positions are relative to a fixed
    grid both in the learned embedding (resampled to the map) and in the rotary one (stretched or
    compressed to `rope_grid` tokens per side, for a window and for a whole map alike), so images
    may have any size that is a multiple of the patch size.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        mlp_ratio: float = 4 * 2 / 3,
        patch_size: int = 16,
        pretrained_grid: int = 32,
        rope_grid: int = 16,
        window_size: int = 24,
        global_blocks: Sequence[int] = (3, 7, 11, 15, 19, 23),
        drop_path_rate: float = 0.0,
        activation_checkpointing: bool | int = False,
        size_divisibility: int = 32,
        square_size: int = 0,
        out_feature: str = "last_feat",
        pretrained: str | None = None,
        pretrained_file: str | Path | None = None,
    ):
        """
        Args:
            embed_dim: width C.
            depth: number of blocks.
            num_heads: heads M; a head's width must be a multiple of 4.
            mlp_ratio: hidden width of the MLPs over C, before rounding down.
            patch_size: side of a token, in pixels.
            pretrained_grid: side of the learned position embedding, in tokens.
            rope_grid: side of the grid of the rotary positions, in tokens: what the model was first
                pretrained with, 224 / 14 for EVA-02.
            window_size: side of a window, in tokens.
            global_blocks: indices of the blocks that attend to the whole map.
            drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first.
            activation_checkpointing: recompute each block in the backward pass, to save memory; or,
                a number, so many of the first blocks.
            size_divisibility: what padded images' height and width are a multiple of; itself a
                multiple of the patch size.
            square_size: pad batches to squares of this side in pixels; 0 to pad as needed.
            out_feature: name of the map.
            pretrained: initialize from the weights of this timm model, for instance
                "eva02_large_patch14_448.mim_m38m_ft_in22k"; patch and grid size are adapted.
            pretrained_file: read the weights of `pretrained` from this file instead of
                downloading them.
        """
        super().__init__()
        if any(not 0 <= i < depth for i in global_blocks):
            raise ValueError(
                f"global_blocks {tuple(global_blocks)} must be among the blocks 0 to {depth - 1}"
            )
        if size_divisibility % patch_size or square_size % patch_size:
            raise ValueError(
                f"size_divisibility={size_divisibility} and square_size={square_size} must be "
                f"multiples of patch_size={patch_size}"
            )
        if pretrained_file is not None and pretrained is None:
            raise ValueError("pretrained_file needs `pretrained`, the timm model it belongs to")
        self.patch_size = patch_size
        self.rope_grid = rope_grid
        self.head_dim = embed_dim // num_heads
        self.window_size = window_size
        self.num_checkpointed = num_recomputed(activation_checkpointing, depth)
        self._size_divisibility = size_divisibility
        self._square_size = square_size
        self._out_features = [out_feature]
        self._out_feature_channels = {out_feature: embed_dim}
        self._out_feature_strides = {out_feature: patch_size}

        self.patch_embed = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.pos_embed = nn.Parameter(torch.empty(1, pretrained_grid, pretrained_grid, embed_dim))
        self.blocks = nn.ModuleList(
            EvaBlock(
                embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                window_size=0 if i in global_blocks else window_size,
                drop_path=drop_path_rate * i / max(depth - 1, 1),
            )
            for i in range(depth)
        )
        self.output_norm = nn.LayerNorm(embed_dim)
        trunc_normal_(self.pos_embed, std=0.02)
        self.apply(init_linear)
        if pretrained is not None:
            self._load_timm(pretrained, pretrained_file)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: (N, 3, H * patch_size, W * patch_size), normalized.

        Returns:
            {out_feature: (N, C, H, W)}

        Raises:
            ValueError: the image is not a whole number of patches.
        """
        if images.shape[-2] % self.patch_size or images.shape[-1] % self.patch_size:
            raise ValueError(
                f"images of {tuple(images.shape[-2:])} pixels are not whole patches of "
                f"{self.patch_size}; pad them to size_divisibility={self._size_divisibility}"
            )
        x = self.patch_embed(images).permute(0, 2, 3, 1)
        height, width = x.shape[1:3]
        x = x + self._positions(height, width)
        window_rope = self.rotary_table(self.window_size, self.window_size, x.device)
        global_rope = self.rotary_table(height, width, x.device)
        for index, block in enumerate(self.blocks):
            rope = window_rope if block.window_size else global_rope
            x = call(block, x, rope, recompute=self.training and index < self.num_checkpointed)
        x = self.output_norm(x).permute(0, 3, 1, 2).contiguous()
        return {self._out_features[0]: x}

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self._size_divisibility, "square_size": self._square_size}

    def _load_timm(self, model_name: str, file: str | Path | None) -> None:
        """Copy the weights of a timm model; the last norm keeps its own."""
        side = self.pos_embed.shape[1]
        source = timm_state_dict(
            model_name, file, img_size=side * self.patch_size, patch_size=self.patch_size
        )
        weights = {name: value for name, value in source.items() if name.startswith("blocks.")}
        weights |= {
            "pos_embed": _without_class_token(source["pos_embed"]),
            "patch_embed.weight": source["patch_embed.proj.weight"],
            "patch_embed.bias": source["patch_embed.proj.bias"],
        }
        own = {k: v for k, v in self.state_dict().items() if k.startswith("output_norm.")}
        self.load_state_dict(weights | own)

    def _positions(self, height: int, width: int) -> Tensor:
        """The learned embedding of a map of this size in tokens, (1, height, width, C)."""
        grid: Tensor = self.pos_embed
        if grid.shape[1:3] == (height, width):
            return grid
        grid = F.interpolate(
            grid.permute(0, 3, 1, 2), size=(height, width), mode="bicubic", align_corners=False
        )
        return grid.permute(0, 2, 3, 1)

    def rotary_table(self, height: int, width: int, device: torch.device) -> Tensor:
        """Sines and cosines of all tokens of a map or window, (height * width, 2 D).

        The token in row y turns the i-th of the first D / 4 pairs of channels by
        y / height * rope_grid * 10000^(-4 i / D); the other D / 4 pairs turn by column.
        """
        sine, cosine = build_rotary_pos_embed(
            [height, width],
            dim=self.head_dim,
            in_pixels=False,
            ref_feat_shape=[self.rope_grid, self.rope_grid],
            device=device,
        )
        return torch.cat([sine, cosine], dim=-1)
