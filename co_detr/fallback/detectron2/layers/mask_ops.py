"""Masks predicted inside of boxes, back in the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from detectron2.structures import Boxes

__all__ = ["paste_masks_in_image"]

_MAX_PIXELS = 2**26
"""Pixels to sample at once on a GPU: 256 MiB of float32, and twice that for the sampling grid."""


def _sample(masks: torch.Tensor, boxes: torch.Tensor, columns: range, rows: range) -> torch.Tensor:
    """Stretch masks (N, M, M) over their boxes; return that part (N, rows, columns) of the images.

    Pixels outside of a box are 0.
    """
    x0, y0, x1, y1 = boxes.unbind(dim=1)

    def places(start: torch.Tensor, end: torch.Tensor, pixels: range) -> torch.Tensor:
        """Return pixel centres (N, pixels) in units of the box, which spans -1 to 1."""
        centers = torch.arange(pixels.start, pixels.stop, device=boxes.device) + 0.5
        sides = (end - start).clamp(min=1e-6)  # boxes without a side cover no pixel
        return (centers - start[:, None]) / sides[:, None] * 2 - 1

    x = places(x0, x1, columns)[:, None, :].expand(-1, len(rows), -1)
    y = places(y0, y1, rows)[:, :, None].expand(-1, -1, len(columns))
    grid = torch.stack((x, y), dim=3)
    return F.grid_sample(masks[:, None].float(), grid, align_corners=False)[:, 0]


@torch.no_grad()
def paste_masks_in_image(
    masks: torch.Tensor,
    boxes: Boxes | torch.Tensor,
    image_shape: tuple[int, int],
    threshold: float = 0.5,
) -> torch.Tensor:
    """Paste square masks into their boxes, interpolating bilinearly.

    Args:
        masks: (N, M, M) with values in [0, 1].
        boxes: (N, 4) absolute XYXY, which may leave the image.
        image_shape: (height, width).
        threshold: pixels at or above it are set; a negative one keeps soft masks.

    Returns:
        Tensor: (N, height, width) bool, or uint8 in [0, 255] for a negative threshold.
    """
    assert masks.shape[-1] == masks.shape[-2], f"masks must be square, got {tuple(masks.shape)}"
    boxes = boxes.tensor if isinstance(boxes, Boxes) else boxes
    assert len(boxes) == len(masks), f"{len(masks)} masks need as many boxes, got {len(boxes)}"
    boxes = boxes.to(masks.device)
    height, width = image_shape
    dtype = torch.bool if threshold >= 0 else torch.uint8
    pasted = torch.zeros(len(masks), height, width, dtype=dtype, device=masks.device)
    on_cpu = masks.device.type == "cpu"
    step = 1 if on_cpu else max(1, _MAX_PIXELS // max(height * width, 1))
    for start in range(0, len(masks), step):
        part = slice(start, start + step)
        columns, rows = range(width), range(height)
        if on_cpu:  # there it pays to leave out what lies far from the box
            # interpolation reaches half a mask pixel over the edges, which may be many image pixels
            x0, y0, x1, y1 = boxes[start].tolist()
            reach_x, reach_y = (x1 - x0) / masks.shape[2] + 1, (y1 - y0) / masks.shape[1] + 1
            columns = columns[max(0, int(x0 - reach_x)) : max(0, int(x1 + reach_x) + 1)]
            rows = rows[max(0, int(y0 - reach_y)) : max(0, int(y1 + reach_y) + 1)]
        soft = _sample(masks[part], boxes[part], columns, rows)
        values = soft >= threshold if threshold >= 0 else (soft * 255).to(torch.uint8)
        pasted[part, rows.start : rows.stop, columns.start : columns.stop] = values
    return pasted
