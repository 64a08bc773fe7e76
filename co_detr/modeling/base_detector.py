"""What detectors have in common: images to the encoder's memory, its heads, detections to images.

Letters: N images. See the package docstring for box frames and labels.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from detectron2.modeling import detector_postprocess
from detectron2.modeling.backbone import Backbone
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional

from .aux_heads.base import AuxHead, AuxOutput, output_of
from .input_checks import check_images, check_instances
from .losses import LossTerm
from .named_parts import module_dict
from .transformer.encoder import EncoderMemory
from .whole_batch import all_inputs

CHANNELS_LAST_PIXELS = 2**17  # in a batch: one image of 362x362, or eight of 128x128
CANVAS_GRAY = 114.0  # of 0..255, what large-scale jittering pads with


class Detector(nn.Module):
    """A backbone and an encoder, and heads that read the encoder's memory as a pyramid.

    Args:
        backbone: images to a dict of maps.
        neck: that dict to a list of maps of equal channels, fine to coarse.
        encoder: maps and padding to `EncoderMemory`.
        num_classes: for reference and for configs to point at.
        pyramid: memory to the maps that auxiliary heads read; may be None without such heads.
        aux_heads: auxiliary heads by name, as many as one likes; a head may be there several times
            under names of its own.
        pixel_mean, pixel_std: per channel, in the range of the input images.
        image_format: "RGB" or "BGR", the order in which images arrive.
        mask_padding: False treats padding as image, as models trained with large-scale jittering.
        canvas: side of the square, in pixels, that images are padded to for such models, with the
            gray of their training; None pads to the largest image of the batch.
    """

    normalizes_over_batch = True  # see whole_batch.py
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: nn.Module,
        encoder: nn.Module,
        num_classes: int,
        pyramid: nn.Module | None = None,
        aux_heads: Mapping[str, AuxHead] | None = None,
        pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53),
        pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375),
        image_format: str = "RGB",
        mask_padding: bool = True,
        canvas: int | None = None,
    ):
        super().__init__()
        if aux_heads and pyramid is None:
            raise ValueError("auxiliary heads read a pyramid: pass pyramid=EncoderPyramid(...)")
        if canvas is not None and mask_padding:
            raise ValueError(f"canvas={canvas} is for models with mask_padding=False")
        self.backbone = backbone
        self.neck = neck
        self.encoder = encoder
        self.pyramid = pyramid if aux_heads else None
        self.aux_heads = module_dict("aux_heads", aux_heads or {})
        self.num_classes = num_classes
        self.image_format = image_format
        self.mask_padding = mask_padding
        self.canvas = canvas
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def encode(self, batched_inputs: list[dict]) -> tuple[EncoderMemory, list[tuple[int, int]]]:
        """Apply backbone, neck and encoder: their memory, and each image's valid (height, width).

        Args, Raises: as `preprocess`.
        """
        images, sizes = self.preprocess(batched_inputs)
        if _pays_channels_last(images):
            images = images.contiguous(memory_format=torch.channels_last)
        return self.encoder(self.neck(self.backbone(images)), padding_mask(images, sizes)), sizes

    def preprocess(self, batched_inputs: list[dict]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Normalize and pad to one batch: (N, 3, H, W) and each image's valid (height, width).

        Raises:
            TypeError, ValueError: an image is not of the kind, shape or range it has to be.
        """
        check_images(batched_inputs, values=not (self.training or torch.jit.is_tracing()))
        images = [x["image"].to(self.device) for x in batched_inputs]
        if self.canvas is not None:
            images = [pad_to_canvas(image, self.canvas) for image in images]
        # in float32 whatever the model is in: half precision cannot tell apart the darkest grays
        images = [(image.float() - self.pixel_mean) / self.pixel_std for image in images]
        images = [image.to(self.pixel_mean.dtype) for image in images]
        divisor = self.backbone.size_divisibility
        batch = ImageList.from_tensors(images, divisor, **self._squares(images))
        padded = pad_as(batch.tensor, input_sizes(all_inputs(batched_inputs)), divisor)
        sizes = batch.image_sizes
        if not self.mask_padding:
            # In the release the anchors of auxiliary heads stay within each image's own size. That
            # makes no difference to its models of this kind: their images fill one canvas. Where
            # sizes are mixed without a canvas, padding is image for anchors, too: background.
            sizes = [(padded.shape[-2], padded.shape[-1])] * len(sizes)
        return padded, sizes

    def _squares(self, images: list[Tensor]) -> dict[str, Any]:
        """Options of `ImageList.from_tensors` for a backbone that wants squares; none for others,
        nor for backbones of detectron2 0.6, which has no such wish.

        Raises:
            ValueError: an image is larger than the squares.
        """
        constraints = getattr(self.backbone, "padding_constraints", {})
        side = constraints.get("square_size", 0)
        _check_square(images, side)
        return {"padding_constraints": constraints} if side > 0 else {}

    def assist(
        self, memory: EncoderMemory, sizes: list[tuple[int, int]], instances: list[Instances]
    ) -> dict[str, AuxOutput]:
        """Let every auxiliary head assign labels to its candidates.

        Raises:
            TypeError, ValueError: a head returns something else than an `AuxOutput`, or losses that
                nothing can train.
        """
        assert self.pyramid is not None  # there are heads
        maps = self.pyramid(memory)
        return {
            name: output_of(head, maps, sizes, instances) for name, head in self.aux_heads.items()
        }

    def detections_of_head(
        self, name: str, memory: EncoderMemory, sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """What an auxiliary head detects by itself, in pixels of the model input."""
        assert self.pyramid is not None  # there are heads
        head = cast(AuxHead, self.aux_heads[name])
        return head.inference(self.pyramid(memory), sizes)

    def instances_of(self, batched_inputs: list[dict]) -> list[Instances]:
        """The annotations of training examples, on the model's device.

        Raises:
            TypeError, ValueError: an example of the whole batch has none, or labels or boxes are
                not of the kind or range that they have to be.
        """
        examples = all_inputs(batched_inputs)
        for index, x in enumerate(examples):
            if "instances" not in x:
                raise ValueError(
                    f'training needs "instances", example {index} of the batch has {sorted(x)}: '
                    "make its mapper with is_train=True"
                )
        check_instances(examples, self.num_classes)
        return [x["instances"].to(self.device) for x in batched_inputs]


def aux_terms(aux: Mapping[str, AuxOutput]) -> dict[str, LossTerm]:
    """The auxiliary heads' losses as "<head>/<loss>"."""
    return {
        f"{name}/{loss}": term for name, out in aux.items() for loss, term in out.losses.items()
    }


def input_sizes(batched_inputs: list[dict]) -> list[tuple[int, int]]:
    """(height, width) of every image as it came in."""
    return [(x["image"].shape[-2], x["image"].shape[-1]) for x in batched_inputs]


def padding_mask(images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """(N, H, W) bool, True outside each image's valid (height, width)."""
    mask = torch.ones(images.shape[0], *images.shape[-2:], dtype=torch.bool, device=images.device)
    for image, (height, width) in zip(mask, sizes):
        image[:height, :width] = False
    return mask


def _pays_channels_last(images: Tensor) -> bool:
    """Whether convolutions of a batch (N, 3, H, W) are faster with the channels last.

    On a CPU they reorder every map for themselves otherwise. The maps of fewer pixels take less
    time than the weights, which are better as they are.
    """
    if images.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return images[:, 0].numel() >= CHANNELS_LAST_PIXELS


def pad_as(images: Tensor, sizes: list[tuple[int, int]], divisor: int) -> Tensor:
    """Pad (N, C, H, W) further, to what images of `sizes` (height, width) have in common."""
    divisor = max(divisor, 1)
    wanted = (-(-max(lengths) // divisor) * divisor for lengths in zip(*sizes))
    below, right = (max(w - have, 0) for w, have in zip(wanted, images.shape[-2:]))
    return functional.pad(images, (0, right, 0, below)) if below or right else images


def _check_square(images: list[Tensor], side: int) -> None:
    """Raise ValueError where an image is larger than the squares that a backbone asks for."""
    for image in images:
        height, width = image.shape[-2:]
        if 0 < side < max(height, width):
            raise ValueError(
                f"an image of {height}x{width} pixels does not fit the backbone's squares of "
                f"{side}: resize it with ResizeShortestEdge({side}, {side}), or set square_size=0"
            )


def pad_to_canvas(image: Tensor, side: int) -> Tensor:
    """Pad an image (3, h, w) of 0..255 at the right and below, to (3, side, side)."""
    height, width = image.shape[-2:]
    if max(height, width) > side:
        raise ValueError(
            f"an image of {height}x{width} pixels does not fit the model's canvas of {side}: "
            f"resize it with ResizeShortestEdge({side}, {side}), or set model.canvas"
        )
    return functional.pad(image, (0, side - width, 0, side - height), value=CANVAS_GRAY)


def rescale(detections: list[Instances], batched_inputs: list[dict]) -> list[dict]:
    """Bring detections to the output size each input asks for, by default its own."""
    results = []
    # own sizes: where padding counts as image, the detections know the padded ones only
    for found, x, input_size in zip(detections, batched_inputs, input_sizes(batched_inputs)):
        found = Instances(input_size, **found.get_fields())
        height, width = x.get("height", input_size[0]), x.get("width", input_size[1])
        results.append({"instances": detector_postprocess(found, height, width)})
    return results
