"""Masks of the objects of an image, as pixels or as polygons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from torchvision.ops import roi_align

from .boxes import Boxes

__all__ = ["BitMasks", "PolygonMasks", "polygons_to_bitmask"]


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Rasterize the union of polygons.

    Args:
        polygons: (x0, y0, x1, y1, ...) in pixels each.
        height: of the mask.
        width: of the mask.

    Returns:
        ndarray: (height, width) bool.
    """
    if len(polygons) == 0:
        return np.zeros((height, width), dtype=bool)
    flat = [np.asarray(polygon, dtype=np.float64).tolist() for polygon in polygons]
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(flat, height, width))).astype(
        bool
    )


class BitMasks:
    """Masks of the size of the image.

    Args:
        tensor: (N, H, W) tensor or array; nonzero is inside. Stored as bool in `tensor`.
    """

    def __init__(self, tensor: torch.Tensor | np.ndarray):
        tensor = torch.as_tensor(tensor, dtype=torch.bool)
        assert tensor.dim() == 3, f"masks have shape (N, H, W), got {tuple(tensor.shape)}"
        self.image_size = tuple(tensor.shape[1:])
        self.tensor = tensor

    def to(self, *args, **kwargs) -> BitMasks:
        """Return the masks after `Tensor.to`."""
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item: int | slice | torch.Tensor) -> BitMasks:
        """Select by integer (one mask), slice, indices (M,) or mask (N,)."""
        if isinstance(item, int):
            return BitMasks(self.tensor[item].unsqueeze(0))
        selected = self.tensor[item]
        assert selected.dim() == 3, f"index {item} selects parts of masks"
        return BitMasks(selected)

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield each mask as a tensor (H, W)."""
        yield from self.tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)}, image_size={self.image_size})"

    def nonempty(self) -> torch.Tensor:
        """Return (N,) bool: at least one pixel is set."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(
        polygon_masks: PolygonMasks | list[list[np.ndarray]], height: int, width: int
    ) -> BitMasks:
        """Rasterize the polygons of each object into a mask of (height, width)."""
        if isinstance(polygon_masks, PolygonMasks):
            polygon_masks = polygon_masks.polygons
        masks = [polygons_to_bitmask(polygons, height, width) for polygons in polygon_masks]
        return BitMasks(np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool))

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Cut each mask to its box and resample it.

        Args:
            boxes: (N, 4) absolute XYXY, one for each mask.
            mask_size: side of the result in pixels.

        Returns:
            Tensor: (N, mask_size, mask_size) bool; set where at least half of the area was set.
        """
        assert len(boxes) == len(self), f"{len(self)} masks need as many boxes, got {len(boxes)}"
        index = torch.arange(len(boxes), device=boxes.device).to(boxes.dtype)
        rois = torch.cat([index[:, None], boxes], dim=1).float()
        pixels = self.tensor[:, None].to(device=rois.device, dtype=torch.float32)
        crops = roi_align(pixels, rois, (mask_size, mask_size), 1.0, 0, aligned=True)
        return crops[:, 0] >= 0.5

    def get_bounding_boxes(self) -> Boxes:
        """Return the tightest boxes; their right and lower edges are one past the last pixel.

        A mask without pixels has the box (0, 0, 0, 0).
        """
        edges = []
        for along in (self.tensor.any(dim=1), self.tensor.any(dim=2)):  # (N, W), (N, H)
            number = torch.arange(along.shape[1], device=self.device)
            end = torch.where(along, number + 1, 0).amax(dim=1)
            start = torch.where(along, number, along.shape[1]).amin(dim=1)
            edges.append((torch.minimum(start, end), end))
        (x0, x1), (y0, y1) = edges
        return Boxes(torch.stack((x0, y0, x1, y1), dim=1))

    @staticmethod
    def cat(bitmasks_list: list[BitMasks]) -> BitMasks:
        """Join masks in order."""
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list]))


class PolygonMasks:
    """Masks as polygons; always on the CPU.

    Args:
        polygons: for each object a list of polygons, each (x0, y0, x1, y1, ...) in pixels with at
            least three points. Stored as float64 arrays in `polygons`.

    Raises:
        ValueError: if the input is not nested like that.
    """

    def __init__(self, polygons: list[list[Sequence | np.ndarray | torch.Tensor]]):
        if not isinstance(polygons, list):
            raise ValueError(f"polygons must be a list of objects, got {type(polygons)}")
        self.polygons = [self._checked(polygons_of_one) for polygons_of_one in polygons]

    @staticmethod
    def _checked(polygons: list) -> list[np.ndarray]:
        if not isinstance(polygons, list):
            raise ValueError(f"each object must be a list of polygons, got {type(polygons)}")
        # copies: transforms change coordinates in place
        arrays = [np.array(polygon, dtype=np.float64) for polygon in polygons]
        for array in arrays:
            if array.ndim != 1 or len(array) % 2 or len(array) < 6:
                raise ValueError(
                    "a polygon must be a flat list of at least three pairs of coordinates, "
                    f"got shape {array.shape}"
                )
        return arrays

    def to(self, *args, **kwargs) -> PolygonMasks:
        """Return the masks themselves: they stay on the CPU."""
        return self

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def __len__(self) -> int:
        return len(self.polygons)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        """Yield the polygons of each object."""
        return iter(self.polygons)

    def __getitem__(self, item: int | slice | list[int] | torch.Tensor) -> PolygonMasks:
        """Select by integer (one object), slice, indices (M,) or mask (N,)."""
        if isinstance(item, int):
            return PolygonMasks([self.polygons[item]])
        if isinstance(item, slice):
            return PolygonMasks(self.polygons[item])
        index = torch.as_tensor(item)
        if index.dtype == torch.bool:
            index = index.nonzero().flatten()
        elif len(index) > 0 and (index.is_floating_point() or index.dim() != 1):
            raise ValueError(f"polygon masks cannot be indexed by {item}; use integers or bools")
        return PolygonMasks([self.polygons[i] for i in index.tolist()])

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"

    def nonempty(self) -> torch.Tensor:
        """Return (N,) bool: the object has a polygon."""
        return torch.tensor([len(polygons) > 0 for polygons in self.polygons], dtype=torch.bool)

    def area(self) -> torch.Tensor:
        """Return the areas (N,) in square pixels: the sum over the polygons of each object."""
        return torch.tensor([sum(map(_polygon_area, polygons)) for polygons in self.polygons])

    def get_bounding_boxes(self) -> Boxes:
        """Return the tightest boxes; (0, 0, 0, 0) for an object without polygons."""
        boxes = torch.zeros(len(self), 4)
        for box, polygons in zip(boxes, self.polygons):
            if polygons:
                points = torch.from_numpy(np.concatenate(polygons)).view(-1, 2)
                box[:2], box[2:] = points.amin(dim=0), points.amax(dim=0)
        return Boxes(boxes)

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Rasterize what lies inside of each box, scaled to a square.

        Args:
            boxes: (N, 4) absolute XYXY, one for each object.
            mask_size: side of the result in pixels.

        Returns:
            Tensor: (N, mask_size, mask_size) bool, on the device of `boxes`.
        """
        assert len(boxes) == len(self), f"{len(self)} objects need as many boxes, got {len(boxes)}"
        crops = []
        for polygons, box in zip(self.polygons, boxes.detach().cpu().double().numpy()):
            # degenerate boxes occur among proposals; the limit keeps the scale finite
            scale = mask_size / np.maximum(box[2:] - box[:2], 0.1)
            moved = [((p.reshape(-1, 2) - box[:2]) * scale).flatten() for p in polygons]
            crops.append(polygons_to_bitmask(moved, mask_size, mask_size))
        result = np.stack(crops) if crops else np.zeros((0, mask_size, mask_size), dtype=bool)
        return torch.from_numpy(result).to(boxes.device)

    @staticmethod
    def cat(polymasks_list: list[PolygonMasks]) -> PolygonMasks:
        """Join the objects in order."""
        return PolygonMasks([polygons for masks in polymasks_list for polygons in masks])


def _polygon_area(polygon: np.ndarray) -> float:
    """Return the area by the shoelace formula, whatever the direction of the polygon."""
    x, y = polygon[0::2], polygon[1::2]
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
