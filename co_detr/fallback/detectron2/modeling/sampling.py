"""Choosing which labelled predictions take part in a loss."""

import torch


def subsample_labels(
    labels: torch.Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a random subset with a limited share of positives (Faster R-CNN, Sec. 3.1.3).

    Where positives are few, negatives fill up; where negatives are few, the sample is smaller.

    Args:
        labels: (P,) integers: `bg_label` is negative, -1 ignored, everything else positive.
        num_samples: size of the sample.
        positive_fraction: at most `int(num_samples * positive_fraction)` positives are drawn.

    Returns:
        Indices (int64) of the positives and of the negatives drawn, each without repetition.
    """
    positive = torch.nonzero((labels != -1) & (labels != bg_label)).flatten()
    negative = torch.nonzero(labels == bg_label).flatten()
    num_positive = min(positive.numel(), int(num_samples * positive_fraction))
    num_negative = min(negative.numel(), num_samples - num_positive)
    chosen_positive = torch.randperm(positive.numel(), device=labels.device)[:num_positive]
    chosen_negative = torch.randperm(negative.numel(), device=labels.device)[:num_negative]
    return positive[chosen_positive], negative[chosen_negative]
