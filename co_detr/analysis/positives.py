"""How many candidates the auxiliary heads assign to an object (Co-DETR, appendix A, "The number of
customized positive queries")."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from detectron2.structures import Instances
from torch import Tensor

from co_detr.modeling.base_detector import Detector

from .passes import assigned_samples, encode, objects_of


@dataclass
class PositiveCounts:
    """Objects of a data set, and the positives of each head, by its name."""

    objects: int = 0
    positives: dict[str, int] = field(default_factory=dict)

    def add(self, samples: Mapping[str, Sequence[Instances]], objects: int, classes: int) -> None:
        """Count a batch.

        Args:
            samples: by head, the `AuxOutput.samples` of each image.
            objects: of all images together.
            classes: the background label.
        """
        self.objects += objects
        for head, of_images in samples.items():
            found = sum(int(is_positive(s.gt_classes, classes).sum()) for s in of_images)
            self.positives[head] = self.positives.get(head, 0) + found

    def per_object(self) -> dict[str, float]:
        """Positives per object, by head: all of the data set over all of its objects.

        Raises:
            ValueError: there was no object.
        """
        if not self.objects:
            raise ValueError("none of the images has an object: look at more with --images")
        return {head: count / self.objects for head, count in self.positives.items()}


def is_positive(labels: Tensor, num_classes: int) -> Tensor:
    """Whether labels are those of an object: neither background (num_classes) nor ignored (-1)."""
    return (labels >= 0) & (labels < num_classes)


@torch.no_grad()
def count_positives(model: Detector, batches: Iterable[Sequence[dict]]) -> PositiveCounts:
    """Let the auxiliary heads of a model assign labels on a data set, and count their positives.

    Raises:
        ValueError: as `assigned_samples`.
    """
    counts = PositiveCounts()
    for examples in batches:
        objects = objects_of(model, examples)
        memory, sizes = encode(model, examples)
        samples = assigned_samples(model, memory, sizes, objects)
        counts.add(samples, sum(map(len, objects)), model.num_classes)
    return counts
