"""Federated loss: at each step, a sample of the classes is scored (Zhou et al. 2021, appendix).

LVIS annotates each image for a part of its 1203 classes, and most of them are rare. Scoring all of
them as background everywhere would push the rare ones down.
"""

from collections.abc import Sequence

import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import get_fed_loss_cls_weights
from torch import Tensor, nn


class FederatedClasses(nn.Module):
    """Chooses the classes whose loss counts at a training step.

    These are all classes among the batch's objects, filled up to `num_sampled` by others, drawn
    without replacement with probabilities proportional to frequency ** power.

    Frequencies are looked up when the first batch is scored, so a model can be built, evaluated and
    used without the dataset. Each process samples for its own batch.

    Args:
        num_classes: of the model.
        num_sampled: how many classes are scored, at least.
        power: of the frequency.
        dataset: a registered dataset, or several, whose `class_image_count` metadata holds the
            number of images per class; LVIS files bring it along.
        image_counts: (num_classes,) the same numbers, given here.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_sampled: int = 50,
        power: float = 0.5,
        dataset: str | Sequence[str] | None = None,
        image_counts: Sequence[float] | None = None,
    ):
        super().__init__()
        if not 1 <= num_sampled <= num_classes:
            raise ValueError(f"cannot sample {num_sampled} of {num_classes} classes")
        if (dataset is None) == (image_counts is None):
            raise ValueError(
                "give the class frequencies once: either `dataset`, which has them, or "
                f"`image_counts`; got dataset={dataset!r}, image_counts={image_counts!r}"
            )
        self.num_classes = num_classes
        self.num_sampled = num_sampled
        self.power = power
        self.dataset = dataset
        self.image_counts = image_counts
        # no buffer: it appears with the first batch, and belongs to no checkpoint
        self._weights: Tensor | None = None

    def forward(self, classes: Sequence[Tensor]) -> Tensor:
        """Draw the classes of a step from torch's global generator.

        Args:
            classes: per image (G,) labels of its objects.

        Returns:
            (num_classes,) bool, True for classes whose loss counts.

        Raises:
            ValueError: there are no frequencies for exactly these classes.
        """
        present = torch.cat(list(classes))
        if self._weights is None:
            self._weights = self._look_up_weights()
        self._weights = self._weights.to(present.device)
        # An exponential race: the classes that arrive first are a weighted sample without
        # replacement. Unlike a multinomial draw of a number that depends on the batch, it needs no
        # copy from the device.
        arrival = torch.empty_like(self._weights).exponential_() / self._weights
        arrival[present] = -1.0
        scored = torch.zeros_like(arrival, dtype=torch.bool)
        scored[arrival.topk(self.num_sampled, largest=False).indices] = True
        scored[present] = True  # also where there are more than num_sampled
        return scored

    def _look_up_weights(self) -> Tensor:
        """(num_classes,) frequencies raised to `power`."""
        if self.image_counts is not None:
            weights = torch.tensor([float(count) for count in self.image_counts]) ** self.power
            source = "image_counts"
        else:
            names = [self.dataset] if isinstance(self.dataset, str) else list(self.dataset or ())
            source = ", ".join(names)
            try:
                weights = get_fed_loss_cls_weights(names, self.power)
            except AttributeError as error:
                raise ValueError(
                    f"{source} does not know how many images show each class (its metadata has "
                    f"{sorted(MetadataCatalog.get(names[0]).as_dict())}, no class_image_count): "
                    "use a dataset in LVIS format, or pass image_counts"
                ) from error
        if len(weights) != self.num_classes:
            raise ValueError(
                f"{source} has the frequencies of {len(weights)} classes, but the model predicts "
                f"{self.num_classes}: set model.num_classes, or use the model's dataset"
            )
        return weights
