"""The ids that a dataset gives its images and categories, for results that belong to it."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from co_detr.data.annotations import read_categories, read_names
from co_detr.data.dataset import file_name_of


class DatasetIds:
    """Ids of the images and categories of an annotation file in COCO or LVIS format, repaired as
    for training and evaluation: see `co_detr.data.annotations`.

    Attributes:
        categories: id and name of each, in the order of classes.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        """
        Raises:
            FileNotFoundError: there is no such file.
            ValueError: its ids or categories have no one meaning. Names the file, the entry and the
                remedy.
        """
        self.path = os.fspath(path)
        self.kind, images, categories = read_names(self.path)
        self.categories = [{"id": c["id"], "name": c["name"]} for c in categories]
        self._by_end: dict[str, list[Any]] = defaultdict(list)  # by each end of the name's path
        for image in images:
            if not image.get("file_name") and not image.get("coco_url"):
                continue  # no picture's
            name = file_name_of(image, self.kind).replace("\\", "/")
            for end in _ends(PurePosixPath(name)):
                self._by_end[end].append(image["id"])

    def image_id(self, path: Path) -> Any | None:
        """The id of a picture file; None if the dataset lists none of its name, or several.

        The longest end of the path decides that is the end of a listed name, too: of
        `data/train/1.jpg` and `data/val/1.jpg`, `val/1.jpg` means the second.
        """
        for end in _ends(PurePosixPath(path.as_posix())):
            ids = self._by_end.get(end)
            if ids is not None:
                return ids[0] if len(ids) == 1 else None
        return None

    def categories_of(self, known: list[dict], named: bool) -> list[dict]:
        """Id and name of the model's classes in this dataset.

        Args:
            known: the model's classes in their order, each with a name.
            named: whether the names are real; False where classes are only numbered.

        Raises:
            ValueError: the dataset has other classes than the model.
        """
        names = [category["name"] for category in known]
        for categories in self._namings():
            own = [category["name"] for category in categories]
            by_name = dict(zip(own, categories))
            if own == names:
                return categories
            if len(by_name) == len(own) == len(names) and set(own) == set(names):
                return [by_name[name] for name in names]
        if not named and len(names) == len(self.categories):
            return self.categories
        own = [category["name"] for category in self.categories]
        raise ValueError(
            f"{self.path} has the {len(own)} categories {_shortened(own)}, the model the "
            f"{len(names)} classes {_shortened(names)}: give the annotations that the model was "
            "trained for, or name its dataset by dataloader.test.dataset.names"
        )

    def _namings(self) -> Iterator[list[dict]]:
        """The categories by all names with which the file can be registered for training."""
        yield self.categories
        yield _as_written(self.categories)
        if self.kind == "lvis":  # registered as one in COCO format, which has no synonyms
            categories = read_categories(self.path, "coco")
            yield [{"id": c["id"], "name": c["name"]} for c in categories]


def _as_written(categories: list[dict]) -> list[dict]:
    """Categories without what tells those of one name apart, as `thing_classes` may have them."""
    return [{**c, "name": c["name"].removesuffix(f" (id {c['id']})")} for c in categories]


def _ends(path: PurePosixPath) -> list[str]:
    """The ends of a path: "a/b/c", "b/c", "c"."""
    parts = [part for part in path.parts if part not in ("/", ".")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
