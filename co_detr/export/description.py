"""What an exported file says of itself."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import co_detr
from co_detr.ops.soft_nms import SoftNMS

KEY = "co_detr"
"""Under which the description is in an ONNX file's metadata, and in a `.pt2` file's extra files."""


@dataclass(frozen=True)
class Description:
    """What callers have to know of an exported file besides the shapes of its tensors.

    Attributes:
        height, width: of the input, in pixels; smaller pictures are padded at the right and below.
        categories: id in the dataset, and name, of the classes 0, 1, ...
        image_format: "RGB" or "BGR", the order of the input's channels.
        min_size, max_size: pixels of a picture's shorter side as the model was tested, and of its
            longer side at most; `min_size` 0 for no resizing. What does not fit into the input is
            made smaller.
        max_detections: how many a picture may have, after soft-NMS.
        soft_nms: arguments of `co_detr.ops.soft_nms.SoftNMS`, which is left to the caller; None
            where the detections are final.
        version: of `co_detr`, which wrote the file.
    """

    height: int
    width: int
    categories: list[dict[str, Any]]
    image_format: str = "RGB"
    min_size: int = 800
    max_size: int = 1333
    max_detections: int = 100
    soft_nms: dict[str, Any] | None = None
    version: str = co_detr.__version__

    def __post_init__(self) -> None:
        for name in ("height", "width", "max_detections"):
            _check_number(name, getattr(self, name), least=1)
        for name in ("min_size", "max_size"):
            _check_number(name, getattr(self, name), least=0)
        if self.image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format is {self.image_format!r}")
        if not isinstance(self.categories, list) or not all(map(_is_category, self.categories)):
            raise ValueError(f"categories are {self.categories!r:.80}")
        if self.soft_nms is not None:
            SoftNMS(**self.soft_nms)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: object) -> "Description":
        """Read the description from metadata; `path` is for messages.

        Raises:
            ValueError: there is none.
        """
        try:
            return cls(**json.loads(metadata[KEY]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} does not say what model it holds ({type(error).__name__}: {error}): it "
                "has to be a file that `co-detr export` wrote"
            ) from error


def _check_number(name: str, value: Any, least: int) -> None:
    if type(value) is not int or value < least:
        raise ValueError(f"{name} is {value!r:.80}")


def _is_category(value: Any) -> bool:
    return isinstance(value, dict) and "id" in value and isinstance(value.get("name"), str)
