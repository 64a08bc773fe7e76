"""Assigning predictions (anchors, proposals) to ground truth by a matrix of pairwise quality."""

from collections.abc import Sequence

import torch


class Matcher:
    """Give each prediction its best ground truth, and a label by how good that match is.

    Args:
        thresholds: rising positive qualities that cut [0, inf) into intervals; a quality equal to a
            threshold belongs to the interval above it.
        labels: one per interval, from the lowest quality up: 1 foreground, 0 background, -1 ignore.
        allow_low_quality_matches: also make foreground, whatever their quality, the predictions
            that are (one of) the best for some ground truth (Faster R-CNN, Sec. 3.1.2, rule i).
            They keep the index of *their own* best ground truth. A ground truth that overlaps
            nothing makes every prediction its best one, at quality 0.

    Raises:
        AssertionError: thresholds or labels are not as above, or their numbers do not fit.
    """

    def __init__(
        self,
        thresholds: Sequence[float],
        labels: Sequence[int],
        allow_low_quality_matches: bool = False,
    ):
        self.thresholds = tuple(thresholds)
        self.labels = tuple(labels)
        self.allow_low_quality_matches = allow_low_quality_matches
        assert (
            self.thresholds and self.thresholds[0] > 0
        ), f"thresholds must be positive: {self.thresholds}"
        assert all(
            low <= high for low, high in zip(self.thresholds, self.thresholds[1:])
        ), f"thresholds must rise: {self.thresholds}"
        assert all(
            label in (-1, 0, 1) for label in self.labels
        ), f"labels must be -1, 0 or 1: {self.labels}"
        assert len(self.labels) == len(self.thresholds) + 1, (
            f"{len(self.thresholds)} thresholds make {len(self.thresholds) + 1} intervals, "
            f"got {len(self.labels)} labels"
        )

    def __call__(self, match_quality_matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Match the columns of a matrix to its rows.

        Args:
            match_quality_matrix: (G, P) quality, such as IoU, of each pair of ground truth and
                prediction; not negative.

        Returns:
            matches: (P,) int64, row of the best ground truth (0 where there is none).
            match_labels: (P,) int8, 1, 0 or -1.
        """
        quality = match_quality_matrix
        assert quality.dim() == 2, f"expected a (G, P) matrix, got {tuple(quality.shape)}"
        matches = quality.new_zeros(quality.shape[1], dtype=torch.int64)
        labels = torch.full_like(matches, self.labels[0], dtype=torch.int8)
        if quality.numel() == 0:
            return matches, labels

        assert (quality >= 0).all(), "match qualities must be numbers and not negative"
        best, matches = quality.max(dim=0)
        # The thresholds rise, so the last one that is reached decides.
        for threshold, label in zip(self.thresholds, self.labels[1:]):
            labels.masked_fill_(best >= threshold, label)
        if self.allow_low_quality_matches:
            best_of_truth = quality.amax(dim=1, keepdim=True)
            labels.masked_fill_((quality == best_of_truth).any(dim=0), 1)
        return matches, labels
