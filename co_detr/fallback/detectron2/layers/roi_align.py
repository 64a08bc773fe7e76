"""RoIAlign as a module."""

import torch
from torch import nn
from torchvision.ops import roi_align

__all__ = ["ROIAlign"]


class ROIAlign(nn.Module):
    """`torchvision.ops.roi_align` with fixed options.

    Args:
        output_size: (height, width) of the result.
        spatial_scale: pixels of the map for each pixel that box coordinates count.
        sampling_ratio: samples along each side of an output pixel; 0 adapts to the box.
        aligned: align pixel centres (correct) rather than corners (the original Mask R-CNN).
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
    ):
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Cut boxes out of maps.

        Args:
            input: (N, C, H, W).
            rois: (R, 5) as (index of the map, x0, y0, x1, y1).

        Returns:
            Tensor: (R, C, *output_size).
        """
        assert rois.dim() == 2 and rois.size(1) == 5, f"rois have shape (R, 5), got {rois.shape}"
        return roi_align(
            input,
            rois.to(dtype=input.dtype),
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
