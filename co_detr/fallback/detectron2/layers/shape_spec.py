"""What a module says about a feature map before any image has been seen."""

from dataclasses import dataclass

__all__ = ["ShapeSpec"]


@dataclass
class ShapeSpec:
    """The shape of a feature map; None for what is unknown.

    Args:
        channels: number of channels.
        height: in pixels of the map.
        width: in pixels of the map.
        stride: image pixels for each pixel of the map.
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
