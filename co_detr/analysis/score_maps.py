"""Discriminability scores of a model's encoder and decoder, pixel by pixel (Co-DETR, section 3.4).

Letters: N images, S encoder tokens, C channels, H and W an image's height and width in pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from co_detr.modeling.assignment import GroundTruth
from co_detr.modeling.base_detector import Detector, input_sizes
from co_detr.modeling.detector import CoDETR
from co_detr.modeling.transformer.encoder import EncoderMemory

from .attention import attention_to_tokens, recorded_cross_attention
from .passes import Size, decode, encode, has_decoder, levels_of, match, objects_of


def feature_scores(maps: Sequence[Tensor], padded: Size, size: Size) -> Tensor:
    """(H, W) scores in [0, 1] of an encoder's features, D(F) of section 3.4.

    The l2 norm of each cell, divided by the largest of its level, resized to the image, and
    averaged over the levels. Cells in the padding take no part.

    Args:
        maps: per level (C, H_l, W_l), of the padded image.
        padded: (height, width) of that, in pixels.
        size: (H, W), its part that is the image.
    """
    norms = [level.float().norm(dim=0) for level in maps]
    scores = []
    for norm in norms:
        rows, columns = valid_cells(norm.shape, padded, size)
        largest = norm[:rows, :columns].max().clamp(min=torch.finfo(norm.dtype).tiny)
        scores.append(resize_to_image(norm / largest, padded, size))
    return torch.stack(scores).mean(dim=0)


def attention_scores(cells: Sequence[Tensor], padded: Size, size: Size) -> Tensor:
    """(H, W) scores in [0, 1] of a decoder's cross-attention.

    What each cell gets of it, resized to the image, summed over the levels, and divided by the
    largest value, so that images with many objects do not outweigh those with few.

    Args:
        cells: per level (H_l, W_l), attention summed over heads, layers and queries.
        padded, size: as for `feature_scores`.
    """
    total = torch.stack([resize_to_image(level, padded, size) for level in cells]).sum(dim=0)
    return total / total.max().clamp(min=torch.finfo(total.dtype).tiny)


def valid_cells(shape: Sequence[int], padded: Size, size: Size) -> Size:
    """How many (rows, columns) of a level's cells begin inside the image."""
    rows, columns = (-(-have * cells // whole) for have, cells, whole in zip(size, shape, padded))
    return rows, columns


def resize_to_image(cells: Tensor, padded: Size, size: Size) -> Tensor:
    """Resize a level (H_l, W_l) of a padded image to the pixels of the image (H, W), bilinearly.

    Cells in the padding count for nothing: the last ones before go on in their place.
    """
    rows, columns = valid_cells(cells.shape, padded, size)
    below, right = cells.shape[0] - rows, cells.shape[1] - columns
    valid = F.pad(cells[None, :rows, :columns], (0, right, 0, below), mode="replicate")
    resized = F.interpolate(valid[None], size=padded, mode="bilinear", align_corners=False)
    return resized[0, 0, : size[0], : size[1]]


@dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores of an image, in pixels of the model input.

    Attributes:
        example: of the data loader.
        encoder: (H, W), `feature_scores`.
        decoder: (H, W), `attention_scores` of the queries that are matched to objects after the
            last layer; None for models without a decoder, and images without objects.
    """

    example: dict
    encoder: Tensor
    decoder: Tensor | None


@torch.no_grad()
def score_images(model: Detector, batches: Iterable[Sequence[dict]]) -> Iterator[ImageScores]:
    """Run a model over a data set."""
    for examples in batches:
        memory, valid = encode(model, examples)
        height, width = model.preprocess(list(examples))[0].shape[-2:]  # the memory does not tell
        padded = height, width
        features = memory.maps()
        tokens = None
        if has_decoder(model):
            tokens = positive_attention(model, memory, examples, valid)
        # own sizes: to models without a padding mask, padding is valid, too
        for number, (example, size) in enumerate(zip(examples, input_sizes(list(examples)))):
            encoder = feature_scores([level[number] for level in features], padded, size)
            decoder = None
            if tokens is not None and len(example["instances"]):
                cells = levels_of(tokens[number], memory.spatial_shapes)
                decoder = attention_scores(cells, padded, size)
            yield ImageScores(example, encoder, decoder)


def positive_attention(
    model: CoDETR, memory: EncoderMemory, examples: Sequence[dict], sizes: Sequence[Size]
) -> Tensor:
    """(N, S): attention to each token of the queries that are matched to objects after the last
    layer, summed over them, heads and layers."""
    with recorded_cross_attention(model.decoder) as calls:
        _, predictions = decode(model, memory)
    truth = GroundTruth.from_instances(objects_of(model, examples), sizes)
    matched = match(model, predictions, truth)[-1]
    return attention_to_tokens(calls, matched >= 0)
