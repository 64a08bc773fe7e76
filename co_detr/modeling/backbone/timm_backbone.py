"""Any feature pyramid of timm as a detectron2 backbone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
from detectron2.modeling.backbone import Backbone
from timm.layers import Format, freeze_batch_norm_2d
from timm.models import FeatureInfo
from torch import Tensor, nn

from .initial_weights import check_taken, overlay_of_file


class TimmBackbone(Backbone):
    """Feature maps of a timm model, by name, (N, C, H, W).

    A map is called `res<k>`, where 2^k is its stride: "res2" has stride 4, "res5" stride 32. These
    are the names detectron2 gives the stages of its ResNet, so that one backbone can stand in for
    another without touching the neck. Models with other strides, or with several maps of one
    stride (plain vision transformers), need explicit `out_names`.

    timm pads inside its convolutions, so maps of a size not divisible by the stride are rounded as
    timm rounds them. Models that accept only one input size usually have a switch for it, which is
    to be passed in `model_options`: `dynamic_img_size=True` for vision transformers,
    `strict_img_size=False` for Swin.
    """

    def __init__(
        self,
        *,
        model_name: str,
        out_indices: int | Sequence[int] = 3,
        out_names: Sequence[str] | None = None,
        pretrained: bool = False,
        checkpoint_path: str | Path | None = None,
        pretrained_cfg_overlay: Mapping[str, Any] | None = None,
        freeze_at: int = 0,
        frozen_norm: bool = False,
        drop_path_rate: float | None = None,
        activation_checkpointing: bool = False,
        size_divisibility: int = 0,
        model_options: Mapping[str, Any] | None = None,
    ):
        """
        Args:
            model_name: a name of `timm.list_models()`, with or without the tag of its weights.
            out_indices: which of timm's feature maps to return: the last n, or their indices,
                fine to coarse (`timm.create_model(name, features_only=True).feature_info`).
            out_names: names of the returned maps; see the class for the default.
            pretrained: load the weights timm knows for the model, downloading them if needed.
            checkpoint_path: load these weights instead: a classification checkpoint of the same
                timm model, .safetensors or .pth. Its classifier is dropped.
            pretrained_cfg_overlay: overrides of timm's description of the weights, for instance
                {"file": path} or {"hf_hub_id": name}; takes effect with `pretrained`.
            freeze_at: freeze all modules up to the map of stride 2^freeze_at, as detectron2's
                FREEZE_AT: for a ResNet 1 is the stem, 2 the stem and the first stage. Frozen
                modules get no gradient and stay in evaluation mode. 0 freezes nothing.
            frozen_norm: make every BatchNorm a constant scale and shift.
            drop_path_rate: stochastic depth, where the model has it.
            activation_checkpointing: recompute activations in the backward pass, where the model
                can.
            size_divisibility: what the padded input's height and width have to be a multiple of;
                0 if anything goes.
            model_options: further keyword arguments of the model.

        Raises:
            ValueError: the model has no map of stride 2^freeze_at or finer, its strides do not
                give unique names, `out_names` do not fit `out_indices`, or the checkpoint is of
                another model.
        """
        super().__init__()
        overlay = dict(pretrained_cfg_overlay or {})
        if checkpoint_path is not None:
            # timm would load a file given to `create_model` only after cutting the model into
            # features, when its names no longer fit; the overlay is applied before that.
            overlay |= overlay_of_file(checkpoint_path)
            pretrained = True
        self.model = timm.create_model(
            model_name,
            pretrained=pretrained,
            features_only=True,
            out_indices=out_indices if isinstance(out_indices, int) else tuple(out_indices),
            pretrained_cfg_overlay=overlay or None,
            drop_path_rate=drop_path_rate,
            **(model_options or {}),
        )
        if checkpoint_path is not None:
            check_taken(self.model.state_dict(), overlay["state_dict"], checkpoint_path)
        if activation_checkpointing:
            _checkpointed(self.model).set_grad_checkpointing(True)

        info = self._feature_info()
        strides = info.reduction()
        self._out_features = list(out_names) if out_names else _names_of(strides, model_name)
        if len(self._out_features) != len(strides):
            raise ValueError(
                f"out_names {self._out_features} must name the {len(strides)} maps of strides "
                f"{strides} that out_indices={out_indices} selects"
            )
        self._out_feature_strides = dict(zip(self._out_features, strides))
        self._out_feature_channels = dict(zip(self._out_features, info.channels()))
        self._size_divisibility = size_divisibility
        # Feature networks that always give NCHW carry no format.
        self._channels_last = getattr(self.model, "output_fmt", Format.NCHW) == Format.NHWC

        if frozen_norm:
            self.model = freeze_batch_norm_2d(self.model)
        self._frozen_modules: tuple[str, ...] = ()
        if freeze_at > 0:
            self._freeze(freeze_at)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: (N, 3, H, W), normalized.

        Returns:
            Maps by name, (N, C, H / stride, W / stride), fine to coarse.
        """
        maps = self.model(images)
        if self._channels_last:
            maps = [x.permute(0, 3, 1, 2).contiguous() for x in maps]
        return dict(zip(self._out_features, maps))

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Switch modes, leaving frozen modules in evaluation mode."""
        super().train(mode)
        for name in self._frozen_modules:
            self.model.get_submodule(name).training = False
        return self

    def _feature_info(self) -> FeatureInfo:
        return cast(FeatureInfo, self.model.feature_info)

    def _freeze(self, freeze_at: int) -> None:
        """Freeze every module that timm registers up to the end of the stage of that stride."""
        info = self._feature_info().info
        stages = [i for i in info if i["reduction"] <= 2**freeze_at]
        if not stages:
            finest = info[0]["reduction"]
            raise ValueError(
                f"freeze_at={freeze_at} asks for a map of stride {2**freeze_at} or finer, but the "
                f"finest stride of this model is {finest}; use 0 to freeze nothing"
            )
        stage = _stage_name(self.model, stages[-1]["module"])
        last = list(self.model.get_submodule(stage).modules())[-1]
        frozen = []
        # timm registers modules in the order of their use (its own feature networks rely on it).
        for name, module in self.model.named_modules():
            # Parameters of what contains the stage (class token, position embedding) act before it.
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
            if name and not stage.startswith(f"{name}."):
                frozen.append(name)
            if module is last:
                break
        self._frozen_modules = tuple(frozen)
        self.train(self.training)


def _names_of(strides: Sequence[int], model_name: str) -> list[str]:
    exponents = [math.log2(stride) for stride in strides]
    if len(set(strides)) < len(strides) or any(not e.is_integer() for e in exponents):
        raise ValueError(
            f"the strides {list(strides)} of {model_name} do not give every map its own power of "
            "two; pass out_names"
        )
    return [f"res{int(e)}" for e in exponents]


def _checkpointed(model: nn.Module) -> Any:
    """The part of a timm feature network that knows how to checkpoint activations."""
    for part in (model, getattr(model, "model", None)):
        if hasattr(part, "set_grad_checkpointing"):
            return part
    raise ValueError(f"{type(model).__name__} of timm cannot checkpoint activations")


def _stage_name(model: nn.Module, name: str) -> str:
    """Find the name of a stage in a feature network, given the one it has in the whole model."""
    modules = dict(model.named_modules())
    for candidate in (name, name.replace(".", "_", 1), f"model.{name}", f"body.{name}"):
        if candidate in modules:
            return candidate
    raise ValueError(
        f"cannot find stage '{name}' in {type(model).__name__} of timm; use freeze_at=0"
    )
