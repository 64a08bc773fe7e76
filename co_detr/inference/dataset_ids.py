"""The ids that a dataset gives its images and categories, for results that belong to it."""

import json
import os
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any


class DatasetIds:
    """Ids of the images and categories of an annotation file in COCO or LVIS format.

    Attributes:
        categories: id and name of each, in the order of ids, in which detectron2 numbers classes.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        """
        Raises:
            ValueError: the file is no JSON, or lacks `images` or `categories`.
        """
        try:
            with open(path, encoding="utf-8-sig") as file:
                content = json.load(file)
            images, categories = content["images"], content["categories"]
            self.categories = sorted(
                ({"id": c["id"], "name": c["name"]} for c in categories), key=lambda c: c["id"]
            )
            names = {_name_of(image): image["id"] for image in images}
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is no annotation file in COCO or LVIS format ({error!r}): it needs "
                "`images` with id and file_name, and `categories` with id and name"
            ) from error
        self.path = path
        self._by_end: dict[str, list[Any]] = defaultdict(list)  # by each end of the name's path
        for name, image_id in names.items():
            for end in _ends(PurePosixPath(name)):
                self._by_end[end].append(image_id)

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
        by_name = {category["name"]: category for category in self.categories}
        if len(by_name) == len(self.categories) and set(by_name) == set(names):
            return [by_name[name] for name in names]
        if not named and len(names) == len(self.categories):
            return self.categories
        raise ValueError(
            f"{self.path} has the {len(self.categories)} categories {_shortened(list(by_name))}, "
            f"the model the {len(names)} classes {_shortened(names)}: give the annotations that "
            "the model was trained for, or name its dataset by dataloader.test.dataset.names"
        )


def _name_of(image: dict) -> str:
    """The file name of an image; LVIS gives an address instead."""
    return (image.get("file_name") or image["coco_url"]).replace("\\", "/")


def _ends(path: PurePosixPath) -> list[str]:
    """The ends of a path: "a/b/c", "b/c", "c"."""
    parts = [part for part in path.parts if part not in ("/", ".")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
