"""Where original and customized positive queries are, and how far apart (Co-DETR, figure 7).

Positions are centres of references, as the decoder gets them before its first layer, in fractions
of the image's width and height. *Original* queries are the matching queries: positive are those
matched to an object after the last layer, negative all others. *Customized* queries are the
positive candidates of an auxiliary head, each with the object it is assigned to.

Letters: G objects of an image, Q queries.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from detectron2.structures import Instances
from torch import Tensor

from co_detr.modeling.assignment import GroundTruth
from co_detr.modeling.base_detector import Detector
from co_detr.ops.boxes import to_normalized_cxcywh

from .passes import assigned_samples, decode, encode, has_decoder, match, objects_of
from .positives import is_positive


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions (n, 2) as (x, y), and the object of each, (n,) numbers within the image."""

    points: Tensor
    objects: Tensor

    def of(self, number: int) -> Tensor:
        """The positions that belong to an object."""
        return self.points[self.objects == number]


@dataclass(frozen=True, eq=False)
class QueryPositions:
    """The queries of an image.

    Attributes:
        original: positive matching queries, at most one for each object.
        negatives: (n, 2) of the other matching queries.
        customized: by auxiliary head.
    """

    original: Positions
    negatives: Tensor
    customized: Mapping[str, Positions]


def original_positions(reference: Tensor, matched: Tensor) -> tuple[Positions, Tensor]:
    """Positive and negative queries.

    Args:
        reference: (Q, 2) or (Q, 4), normalized, the centre first.
        matched: (Q,) number of the object, -1 for none.
    """
    positive = matched >= 0
    points = reference[:, :2]
    return Positions(points[positive], matched[positive]), points[~positive]


def customized_positions(
    samples: Instances, boxes: Tensor, labels: Tensor, scale: Tensor, num_classes: int
) -> Positions:
    """The positives among a head's samples.

    Args:
        samples: `AuxOutput.samples` of an image.
        boxes: (G, 4) of its objects, absolute XYXY.
        labels: (G,) of these.
        scale: (4,), the image's (w, h, w, h) in pixels.
        num_classes: the background label.
    """
    samples = samples[is_positive(samples.gt_classes, num_classes)]
    # samples carry the box and the label of their object, which two objects hardly share
    far = torch.cdist(samples.gt_boxes.tensor, boxes, p=1)
    far = far.masked_fill(samples.gt_classes[:, None] != labels, float("inf"))
    objects = far.argmin(dim=1) if len(boxes) else samples.gt_classes.new_empty(0)
    points = to_normalized_cxcywh(samples.proposal_boxes.tensor, scale)[:, :2]
    return Positions(points, objects)


@dataclass
class Distances:
    """Average distances of a head's customized queries over a data set (figure 7b).

    Each customized query counts once: with its distance to the original positive query of the same
    object, and with its mean distance to the original negative queries of the image. Euclidean, of
    positions in fractions of the image.
    """

    to_positives: list[Tensor] = field(default_factory=list)
    to_negatives: list[Tensor] = field(default_factory=list)

    def add(self, customized: Positions, original: Positions, negatives: Tensor) -> None:
        """Count an image. Queries of objects that no original query is matched to are left out."""
        far = torch.cdist(customized.points, original.points)
        same = customized.objects[:, None] == original.objects
        self.to_positives.append(far[same].cpu())
        if len(negatives):
            counted = customized.points[same.any(dim=1)]
            self.to_negatives.append(torch.cdist(counted, negatives).mean(dim=1).cpu())

    def means(self) -> tuple[float, float]:
        """To the original positives, and to the original negatives; NaN where there were none."""
        both = (self.to_positives, self.to_negatives)
        near, far = (torch.cat([torch.empty(0), *parts]).mean().item() for parts in both)
        return near, far


@torch.no_grad()
def locate_queries(
    model: Detector, batches: Iterable[Sequence[dict]]
) -> Iterator[tuple[dict, QueryPositions]]:
    """Run a model over a data set: examples, and where their queries are.

    Raises:
        ValueError: the model has no decoder; or as `assigned_samples`.
    """
    if not has_decoder(model):
        raise ValueError("there are no queries in a model without a decoder: look at a CoDETR")
    for examples in batches:
        objects = objects_of(model, examples)
        memory, sizes = encode(model, examples)
        samples = assigned_samples(model, memory, sizes, objects)
        group, predictions = decode(model, memory)
        truth = GroundTruth.from_instances(objects, sizes)
        matched = match(model, predictions, truth)[-1]
        first = 0  # the matcher numbers objects through the batch
        for number, (example, here) in enumerate(zip(examples, objects)):
            own = torch.where(matched[number] >= 0, matched[number] - first, -1)
            first += len(here)
            customized = {
                head: customized_positions(
                    of_images[number],
                    here.gt_boxes.tensor,
                    here.gt_classes,
                    truth.scale[number],
                    model.num_classes,
                )
                for head, of_images in samples.items()
            }
            original, negatives = original_positions(group.reference[number], own)
            yield example, QueryPositions(original, negatives, customized)
