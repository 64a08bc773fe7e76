"""The box parametrization of R-CNN."""

import math

import torch


class Box2BoxTransform:
    """Deltas (dx, dy, dw, dh) between boxes (Girshick et al., R-CNN, CVPR 2014, Appendix C).

    A target box is the source box shifted by dx * width and dy * height at its centre and grown by
    exp(dw), exp(dh). All boxes are absolute XYXY.

    Args:
        weights: factors of dx, dy, dw, dh that bring them to a similar spread.
        scale_clamp: dw and dh are limited to this when boxes are decoded; the default keeps an
            early, wild prediction from becoming infinite: 16 pixels grow to 1000 at most.
    """

    def __init__(
        self,
        weights: tuple[float, float, float, float],
        scale_clamp: float = math.log(1000.0 / 16),
    ):
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """Encode targets (N, 4) relative to sources (N, 4), both XYXY.

        Returns:
            (N, 4) weighted deltas.

        Raises:
            AssertionError: a source box has no positive width.
        """
        src_size = src_boxes[:, 2:] - src_boxes[:, :2]
        target_size = target_boxes[:, 2:] - target_boxes[:, :2]
        assert (src_size[:, 0] > 0).all(), "source boxes must have a positive width"
        shift = (
            target_boxes[:, :2] + target_boxes[:, 2:] - src_boxes[:, :2] - src_boxes[:, 2:]
        ) / 2
        dx, dy = (shift / src_size).unbind(1)
        dw, dh = (target_size / src_size).log().unbind(1)
        wx, wy, ww, wh = self.weights
        return torch.stack([wx * dx, wy * dy, ww * dw, wh * dh], dim=1)

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Decode `get_deltas`, in float32 whatever the inputs are.

        Args:
            deltas: (N, 4 * k), k sets of deltas per box, such as one per class.
            boxes: (N, 4) XYXY.

        Returns:
            (N, 4 * k) XYXY, float32.
        """
        deltas = deltas.float()
        boxes = boxes.to(deltas.dtype)
        size = boxes[:, 2:] - boxes[:, :2]
        width, height = size[:, 0:1], size[:, 1:2]
        x, y = (boxes[:, :2] + size / 2).split(1, dim=1)
        wx, wy, ww, wh = self.weights
        x = x + deltas[:, 0::4] / wx * width
        y = y + deltas[:, 1::4] / wy * height
        half_width = (deltas[:, 2::4] / ww).clamp(max=self.scale_clamp).exp() * width / 2
        half_height = (deltas[:, 3::4] / wh).clamp(max=self.scale_clamp).exp() * height / 2
        corners = (x - half_width, y - half_height, x + half_width, y + half_height)
        return torch.stack(corners, dim=-1).flatten(1)
