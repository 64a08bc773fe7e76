"""detectron2's RoI pooling, for which the host waits once, and fast on the CPU in training."""

import numpy as np
import scipy.sparse
import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import embedding_bag
from torchvision.ops import roi_align

from co_detr.ops.eager_cpu import runs_on_cpu


class PyramidPooler(ROIPooler):
    """`ROIPooler` of type "ROIAlignV2" with as many sampling points per bin as it has cells.

    `ROIPooler` looks for the boxes of each level, and waits for the device as often. Here they are
    sorted by level, and only the number of boxes of all levels is copied to the host.

    On the CPU, torchvision's backward pass adds up corner by corner in one thread and took a third
    of the time of the whole head. Training there, a bin is a weighted bag of map cells, and the
    gradient is the product with the transpose of the sparse matrix of all weights.

    Args:
        output_size: bins per axis.
        scales, canonical_box_size, canonical_level: as for `ROIPooler`.
    """

    def __init__(
        self,
        *,
        output_size: int,
        scales: list[float],
        canonical_box_size: float,
        canonical_level: int,
    ):
        super().__init__(
            output_size=output_size,
            scales=scales,
            sampling_ratio=0,
            pooler_type="ROIAlignV2",
            canonical_box_size=canonical_box_size,
            canonical_level=canonical_level,
        )

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Pool the boxes of each image: maps (N, C, H_l, W_l), R boxes in total -> (R, C, h, w)."""
        learns = torch.is_grad_enabled() and any(feature.requires_grad for feature in x)
        dtypes = {feature.dtype for feature in x}
        if learns and runs_on_cpu(x[0]) and dtypes == {torch.float32}:
            with torch.autocast("cpu", enabled=False):  # not for the interpolation weights
                return _Pool.apply(self, box_lists, *x)
        boxes = torch.cat([b.tensor for b in box_lists])
        image = boxes.new_zeros(len(boxes), 1)
        for i, part in enumerate(image.split([len(b) for b in box_lists])):
            part.fill_(i)
        rois = torch.cat([image, boxes], dim=1)
        if len(x) == 1:
            return self._align(x[0], rois, self.min_level)
        levels = self._levels(box_lists)
        order = levels.argsort(stable=True)
        counts = (levels == torch.arange(len(x), device=levels.device)[:, None]).sum(dim=1)
        per_level = zip(x, rois[order].split(counts.tolist()))
        pooled = [self._align(f, r, self.min_level + i) for i, (f, r) in enumerate(per_level)]
        return torch.cat(pooled)[order.argsort()]

    def _levels(self, box_lists: list[Boxes]) -> Tensor:
        """Choose a level (R,) for the boxes of all images, counted from the first map."""
        return assign_boxes_to_levels(
            [Boxes.cat(box_lists)],
            self.min_level,
            self.max_level,
            self.canonical_box_size,
            self.canonical_level,
        )

    def _align(self, feature: Tensor, rois: Tensor, level: int) -> Tensor:
        """Pool rois (R, 5), image and box, from the map of a level.

        16-bit maps are pooled in float32: coordinates of large images do not fit in 16 bits.
        """
        dtype = torch.promote_types(feature.dtype, torch.float32)
        rois = rois.to(dtype)
        pooled = roi_align(
            feature.to(dtype), rois, self.output_size, 0.5**level, sampling_ratio=0, aligned=True
        )
        return pooled.to(feature.dtype)

    def weights(
        self, box_lists: list[Boxes], shapes: list[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Say how pooled values are made of map cells.

        Args:
            box_lists: boxes of the N images, R in total.
            shapes: (H_l, W_l) of the maps.

        Returns:
            A sparse matrix in compressed form, bag by bag; a bag is one of the R * h * w bins. The
            starts (R * h * w + 1) of the bags; and of each entry the cell, counted through all
            levels, images, rows and columns in this order, and the weight.
        """
        boxes = torch.cat([b.tensor for b in box_lists])
        counts = [len(b) for b in box_lists]
        image = torch.arange(len(box_lists)).repeat_interleave(torch.tensor(counts))
        level = self._levels(box_lists) if len(shapes) > 1 else torch.zeros_like(image)
        height, width = torch.tensor(shapes)[level].unbind(1)
        area = torch.tensor([h * w for h, w in shapes])
        first = (area.cumsum(0) - area)[level] * len(box_lists) + area[level] * image

        # Aligned: cell centres are at half-integer coordinates.
        left, top, right, bottom = (boxes * (0.5 ** (level + self.min_level))[:, None] - 0.5).t()
        columns, x_weights = _axis(left, right, width, self.output_size[1])
        rows, y_weights = _axis(top, bottom, height, self.output_size[0])
        rows = (rows * width + first).to(torch.int32)
        # (y entries, x entries, h, w, R): the boxes last, for long loops in all these operators
        cells = rows[:, None, :, None] + columns[None, :, None].to(torch.int32)
        weights = y_weights[:, None, :, None] * x_weights[None, :, None]
        cell, weight = (
            x.flatten(0, 1).permute(3, 1, 2, 0).contiguous().numpy() for x in (cells, weights)
        )

        # Most boxes need fewer entries than the one that needs most.
        used = np.flatnonzero(weight != 0)
        num_bags = len(boxes) * self.output_size[0] * self.output_size[1]
        starts = np.arange(num_bags + 1) * weight.shape[3]
        return np.searchsorted(used, starts), cell.ravel()[used], weight.ravel()[used]


def _axis(start: Tensor, end: Tensor, size: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Split each box into bins along one axis, and each bin's mean into cells.

    Args:
        start, end: (R,) of each box, in cells, 0 at the centre of the first one.
        size: (R,) cells of the map.
        bins: number of bins.

    Returns:
        cells (entries, bins, R) int64 and weights of the same shape; unused entries have weight 0.
    """
    length = (end - start) / bins
    samples = length.ceil()  # (R,) per bin
    number = torch.arange(int(samples.max()) if len(samples) else 0)[:, None, None]
    # (samples, bins, R)
    place = torch.arange(bins)[:, None] + (number + 0.5) / samples.clamp(min=1)
    place = start + length * place
    last = (size - 1).to(place.dtype)
    counts = (number < samples) & (place >= -1) & (place <= last + 1)
    weight = counts / samples.clamp(min=1)
    # Up to one cell beyond the border a sample takes the value of the border.
    place = place.clamp(min=0).minimum(last)
    # Samples are at most one cell apart, so they touch one cell more than they are.
    cells = place[:1].floor() + torch.arange(len(number) + 1)[:, None, None]
    hat = (1 - (place - cells[:, None]).abs()).clamp(min=0)  # (entries, samples, bins, R)
    return cells.minimum(last).to(torch.int64), (hat * weight).sum(dim=1)


class _Context(FunctionCtx):
    """What the forward pass keeps for the backward pass."""

    matrix: scipy.sparse.csr_matrix
    sizes: list[tuple[int, int]]


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, pooler: PyramidPooler, box_lists, *maps: Tensor) -> Tensor:
        sizes = [(feature.shape[2], feature.shape[3]) for feature in maps]
        table = torch.cat([feature.flatten(2).transpose(1, 2).flatten(0, 1) for feature in maps])
        starts, cells, weights = pooler.weights(box_lists, sizes)
        matrix = scipy.sparse.csr_matrix(
            (weights, cells, starts), shape=(len(starts) - 1, len(table))
        )
        ctx.matrix, ctx.sizes = matrix, sizes
        height, width = pooler.output_size
        pooled = embedding_bag(
            torch.from_numpy(cells),
            table,
            torch.from_numpy(starts.astype(cells.dtype)),
            per_sample_weights=torch.from_numpy(weights),
            mode="sum",
            include_last_offset=True,
        )
        return pooled.view(-1, height, width, table.shape[1]).permute(0, 3, 1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        bags = grad.permute(0, 2, 3, 1).flatten(0, 2)
        table = torch.from_numpy(ctx.matrix.T @ bags.numpy())
        num_images = len(table) // sum(h * w for h, w in ctx.sizes)
        maps = []
        for part, (h, w) in zip(table.split([num_images * h * w for h, w in ctx.sizes]), ctx.sizes):
            maps.append(part.view(num_images, h, w, -1).permute(0, 3, 1, 2))
        return None, None, *maps
