"""Distances between the heads of a model (paper, section 4.4 and figures 6, 8 and 9).

Letters: K auxiliary heads, n heads that are compared, cells of the encoder's finest level.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from co_detr.modeling.base_detector import Detector

from .grad_cam import to_distribution
from .head_maps import head_maps, prepare_heads
from .passes import has_decoder


def pairwise_kl(distributions: Tensor) -> Tensor:
    """KL divergences of all pairs of distributions, in nats: one image's share of S_ij.

    Args:
        distributions: (n, cells), positive, each adds up to 1.

    Returns:
        (n, n), KL(i || j) at (i, j).
    """
    logs = distributions.log()
    return (distributions[:, None] * (logs[:, None] - logs)).sum(-1)


def average_distances(matrix: Tensor) -> Tensor:
    """S_i = sum over j != i of (S_ij + S_ji), divided by 2 (n - 1) (paper, section 4.4).

    Args:
        matrix: (n, n) distances S_ij of n >= 2 heads.

    Returns:
        (n,) average distance of each head to the others.

    Raises:
        ValueError: the matrix is not square, or there is a single head.
    """
    count = len(matrix)
    if matrix.shape != (count, count) or count < 2:
        raise ValueError(f"need a square matrix of at least 2 heads, got {tuple(matrix.shape)}")
    others = matrix - torch.diag(matrix.diag())
    return (others.sum(0) + others.sum(1)) / (2 * (count - 1))


def model_distances(matrix: Tensor) -> Tensor:
    """The average distances that figure 6 shows of a model.

    Args:
        matrix: (1 + K, 1 + K) distances; the DETR head comes first.

    Returns:
        (K,), S_i of each auxiliary head among the auxiliary heads; or for K = 1 the one distance
        between it and the DETR head, (1,), which is the same formula for the two of them.
    """
    if len(matrix) == 2:
        return average_distances(matrix)[1:]
    return average_distances(matrix[1:, 1:])


def distances_of_heads(
    model: Detector, batches: Iterable[Sequence[dict]], epsilon: float = 0.01
) -> Tensor:
    """Compare all heads of a model, image by image.

    Args:
        model: its heads are in the order of `head_maps.head_names`. Fit for nothing else after it.
        batches: of images.
        epsilon: see `grad_cam.to_distribution`.

    Returns:
        (images, 1 + K, 1 + K) float64; S_ij is the mean over the images.

    Raises:
        ValueError: there is no decoder, or no auxiliary head.
    """
    if not has_decoder(model) or not model.aux_heads:
        raise ValueError(
            "distances are between the DETR head and auxiliary heads: the model needs a decoder "
            f"(it has {'one' if has_decoder(model) else 'none'}) and auxiliary heads "
            f"(it has {len(model.aux_heads)})"
        )
    prepare_heads(model)
    return torch.stack(
        [
            pairwise_kl(to_distribution(maps, epsilon)).cpu()
            for examples in batches
            for maps in head_maps(model, examples)
        ]
    )
