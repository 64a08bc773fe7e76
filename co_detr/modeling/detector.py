"""Co-DETR: the detector as a whole.

Letters: N images. See the package docstring for box frames and labels.
"""

from collections.abc import Mapping

import torch
from detectron2.modeling import detector_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional

from .assignment import GroundTruth
from .aux_heads.base import AuxHead, AuxOutput
from .aux_heads.dense import DenseHead
from .input_checks import check_images
from .losses import LossTerm, normalize
from .queries.group import QueryGroup
from .transformer.encoder import EncoderMemory
from .whole_batch import all_inputs

CANVAS_GRAY = 114.0  # of 0..255, what large-scale jittering pads with


class CoDETR(nn.Module):
    """DETR with collaborative hybrid assignments training (Co-DETR, figure 4).

    Args:
        backbone: images to a dict of maps.
        neck: that dict to a list of maps of equal channels, fine to coarse.
        encoder: maps and padding to `EncoderMemory`.
        proposals: memory to ranked `Proposals`; None for one-stage models.
        pyramid: memory to the maps that auxiliary heads read; may be None without such heads.
        query_sources: modules that make query groups; "matching" also serves inference, the others
            only training.
        decoder: groups and memory to predictions by group name.
        criterion: predictions to losses.
        postprocess: predictions of the last layer to detections.
        aux_heads: auxiliary heads by name, as many as one likes; a head may be there several times
            under names of its own. The customized queries follow them.
        instance_mask: adds masks to the detections of the matching queries; None for boxes alone.
        num_classes: for reference and for configs to point at.
        pixel_mean, pixel_std: per channel, in the range of the input images.
        image_format: "RGB" or "BGR", the order in which images arrive.
        aux_losses: False switches the losses of the auxiliary heads off (paper, table 9): they and
            the pyramid stay as they are, but their assignments still feed the customized queries.
        customized_queries: False switches the customized queries off (paper, table 9).
        mask_padding: False treats padding as image, as models trained with large-scale jittering.
        canvas: side of the square, in pixels, that images are padded to for such models, with the
            gray of their training; None pads to the largest image of the batch.
        eval_branch: whose detections inference returns: "matching", or an auxiliary head's name
            (paper, table 11).
    """

    normalizes_over_batch = True  # see whole_batch.py

    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        query_sources: Mapping[str, nn.Module],
        criterion: nn.Module,
        postprocess: nn.Module,
        num_classes: int,
        proposals: nn.Module | None = None,
        pyramid: nn.Module | None = None,
        aux_heads: Mapping[str, AuxHead] | None = None,
        instance_mask: nn.Module | None = None,
        pixel_mean: tuple[float, ...] = (123.675, 116.28, 103.53),
        pixel_std: tuple[float, ...] = (58.395, 57.12, 57.375),
        image_format: str = "RGB",
        aux_losses: bool = True,
        customized_queries: bool = True,
        mask_padding: bool = True,
        canvas: int | None = None,
        eval_branch: str = "matching",
    ):
        super().__init__()
        aux_heads = dict(aux_heads or {})
        query_sources = dict(query_sources)
        if not customized_queries or not aux_heads:
            query_sources.pop("customized", None)
        if "matching" not in query_sources:
            raise ValueError(f'query_sources need "matching", got {list(query_sources)}')
        if eval_branch not in ("matching", *aux_heads):
            raise ValueError(f'eval_branch {eval_branch!r} is none of {["matching", *aux_heads]}')
        if aux_heads and pyramid is None:
            raise ValueError("auxiliary heads read a pyramid: pass pyramid=EncoderPyramid(...)")
        if canvas is not None and mask_padding:
            raise ValueError(f"canvas={canvas} is for models with mask_padding=False")
        if "customized" in query_sources:
            # in the order of the release, whose parameters have no names: RoI heads come first
            dense = {name: isinstance(head, DenseHead) for name, head in aux_heads.items()}
            query_sources["customized"].serve(sorted(dense, key=dense.get))
        self.backbone = backbone
        self.neck = neck
        self.encoder = encoder
        self.proposals = proposals
        self.pyramid = pyramid if aux_heads else None
        self.aux_heads = nn.ModuleDict(aux_heads)
        self.query_sources = nn.ModuleDict(query_sources)
        self.decoder = decoder
        self.criterion = criterion
        self.postprocess = postprocess
        self.instance_mask = instance_mask
        self.num_classes = num_classes
        self.image_format = image_format
        self.aux_losses = aux_losses
        self.mask_padding = mask_padding
        self.canvas = canvas
        self.eval_branch = eval_branch
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        if not aux_losses:  # nothing trains them then, which a distributed wrapper must know
            self.aux_heads.requires_grad_(False)
            if self.pyramid is not None:
                self.pyramid.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, detections otherwise.

        Args:
            batched_inputs: detectron2's format: "image" (3, H, W); in training "instances" with
                `gt_boxes`, `gt_classes` and, for mask heads, `gt_masks`; optional "height" and
                "width" of the output.

        Returns:
            a flat dict of weighted losses; or per image {"instances": detections}, with boxes in
            pixels of the output.
        """
        images, sizes = self.preprocess(batched_inputs)
        memory = self.encoder(self.neck(self.backbone(images)), padding_mask(images, sizes))
        if not self.training:
            return rescale(self.detect(memory, sizes, input_sizes(batched_inputs)), batched_inputs)

        instances = [x["instances"].to(self.device) for x in batched_inputs]
        ground_truth = GroundTruth.from_instances(instances, sizes)
        proposals = self.proposals(memory) if self.proposals is not None else None
        aux = self.assist(memory, sizes, instances)
        groups = [
            group
            for source in self.query_sources.values()
            for group in source(memory, proposals, ground_truth, aux)
        ]
        predictions = self.decoder(groups, memory)
        terms = self.criterion(predictions, groups, proposals, ground_truth)
        if self.instance_mask is not None:
            boxes = predictions["matching"].boxes[-1]
            terms |= self.instance_mask(memory.maps(), boxes, sizes, instances)
        return normalize(terms | self.aux_terms(aux))

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
        batch = ImageList.from_tensors(images, divisor)
        padded = pad_as(batch.tensor, input_sizes(all_inputs(batched_inputs)), divisor)
        sizes = batch.image_sizes
        if not self.mask_padding:
            # In the release the anchors of auxiliary heads stay within each image's own size. That
            # makes no difference to its models of this kind: their images fill one canvas. Where
            # sizes are mixed without a canvas, padding is image for anchors, too: background.
            sizes = [tuple(padded.shape[-2:])] * len(sizes)
        return padded, sizes

    def assist(
        self, memory: EncoderMemory, sizes: list[tuple[int, int]], instances: list[Instances]
    ) -> dict[str, AuxOutput]:
        """Let every auxiliary head assign labels to its candidates."""
        wanted = self.aux_losses or "customized" in self.query_sources
        if not self.aux_heads or not wanted:
            return {}
        maps = self.pyramid(memory)
        return {name: head(maps, sizes, instances) for name, head in self.aux_heads.items()}

    def aux_terms(self, aux: Mapping[str, AuxOutput]) -> dict[str, LossTerm]:
        """The auxiliary heads' losses as "<head>/<loss>"."""
        if not self.aux_losses:
            return {}
        return {
            f"{name}/{loss}": term for name, out in aux.items() for loss, term in out.losses.items()
        }

    def detect(
        self,
        memory: EncoderMemory,
        sizes: list[tuple[int, int]],
        own_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Detections of the branch `eval_branch`, in pixels of the model input.

        `sizes` count as valid, where padding counts as image more than the images' `own_sizes`.
        """
        if self.eval_branch != "matching":
            return self.aux_heads[self.eval_branch].inference(self.pyramid(memory), sizes)
        proposals = self.proposals(memory) if self.proposals is not None else None
        groups: list[QueryGroup] = self.query_sources["matching"](memory, proposals, None, {})
        predicted = self.decoder(groups[:1], memory)["matching"]
        detections = self.postprocess(predicted.logits[-1], predicted.boxes[-1], sizes)
        if self.instance_mask is None:
            return detections
        for found, size in zip(detections, own_sizes):
            found.pred_boxes.clip(size)  # or masks would reach into the padding, too
        return self.instance_mask.inference(memory.maps(), detections)


def input_sizes(batched_inputs: list[dict]) -> list[tuple[int, int]]:
    """(height, width) of every image as it came in."""
    return [tuple(x["image"].shape[-2:]) for x in batched_inputs]


def padding_mask(images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """(N, H, W) bool, True outside each image's valid (height, width)."""
    mask = torch.ones(images.shape[0], *images.shape[-2:], dtype=torch.bool, device=images.device)
    for image, (height, width) in zip(mask, sizes):
        image[:height, :width] = False
    return mask


def pad_as(images: Tensor, sizes: list[tuple[int, int]], divisor: int) -> Tensor:
    """Pad (N, C, H, W) further, to what images of `sizes` (height, width) have in common."""
    divisor = max(divisor, 1)
    wanted = (-(-max(lengths) // divisor) * divisor for lengths in zip(*sizes))
    below, right = (max(w - have, 0) for w, have in zip(wanted, images.shape[-2:]))
    return functional.pad(images, (0, right, 0, below)) if below or right else images


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
