"""One reading of annotation files in COCO and LVIS format, for training and evaluation alike.

What an annotation tool left open or wrote in another type, and what has only one meaning, is
repaired, and each kind of repair is one line of `Annotations.notes`. All else is refused, with the
file, the entry and what to do.

What is meant where a file is silent:

area: of the mask, as in COCO's own files; of the box for objects without one.
iscrowd: 0.
id of annotations: their number in the file, from 1. Evaluators take 0 for "not matched", and
    compute with numbers.
neg_category_ids, not_exhaustive_category_ids (LVIS): none. Then detections of a category that an
    image has no object of do not count, and all objects of the others are annotated.
image_count, frequency (LVIS): counted in the file; rare up to 10 images, common up to 100.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pycocotools.mask as mask_util

from .segmentation import box_as_polygon, compressed, usable_segmentation
from .values import as_number, common_type, is_finite, number_in

# Annotation ids beyond are not exact in the floats that evaluators keep them in.
LARGEST_ID = 2**53
LARGEST_SIDE = 2**31 - 1  # of a picture, in any file format
RARE, COMMON = 10, 100  # most images of a rare and of a common category (LVIS, Gupta et al. 2019)
_FLAGS = {0: 0, 1: 1, "0": 0, "1": 1, None: 0}  # True and False, 0.0 and 1.0 equal 0 and 1


@dataclass(frozen=True)
class Annotations:
    """A repaired annotation file.

    Every image has an id of one type, `height` and `width` in whole pixels; every category a name
    of its own; every annotation its own positive id, a `bbox` x, y, width, height in pixels with an
    area inside the image, `area`, and `iscrowd` 0 or 1. `segmentation` is there where it is a mask.

    Args:
        json_file: a local path.
        kind: "coco" or "lvis".
        images, categories, annotations: the entries; categories in the order of their ids.
        notes: a sentence for each kind of repair; empty where the file can be used as it is.
        content: the whole file, as read, with these entries.
    """

    json_file: str
    kind: str
    images: list[dict]
    categories: list[dict]
    annotations: list[dict]
    notes: tuple[str, ...]
    content: dict

    @property
    def class_names(self) -> list[str]:
        """Names of the classes 0, 1, ..."""
        return [category["name"] for category in self.categories]

    @property
    def class_ids(self) -> list[int | str]:
        """Category ids of the classes 0, 1, ..."""
        return [category["id"] for category in self.categories]

    def truth(self) -> dict:
        """The content of a file to evaluate by. An object without a mask among others with one has
        its box for a mask, as evaluators of masks ask for all of them."""
        annotations = self.annotations
        if any("segmentation" in a for a in annotations):
            annotations = [
                a if "segmentation" in a else {**a, "segmentation": box_as_polygon(a["bbox"])}
                for a in annotations
            ]
        if self.kind == "lvis":  # has no crowd regions, but a way to say the same
            annotations = [{**a, "ignore": 1} if a["iscrowd"] else a for a in annotations]
        return {**self.content, "annotations": annotations}


def read_annotations(json_file: str, kind: str = "coco", *, any_ids: bool = False) -> Annotations:
    """Read an annotation file and repair it; the file stays as it is.

    Args:
        json_file: a local path.
        kind: "coco" or "lvis".
        any_ids: whether categories of an LVIS file may have other ids than 1, 2, 3, ...

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: what it says has no meaning, or more than one. Names the file, the entry and the
            remedy.
    """
    return _Reading(json_file, kind).repaired(any_ids)


def read_categories(json_file: str, kind: str = "coco") -> list[dict]:
    """The categories of an annotation file, repaired, in the order of classes.

    Args:
        json_file, kind: see `read_annotations`.

    Raises:
        FileNotFoundError, ValueError: see `read_annotations`; faults of images and annotations
            pass, but for their ids.
    """
    return read_names(json_file, kind)[2]


def read_names(json_file: str, kind: str | None = None) -> tuple[str, list[dict], list[dict]]:
    """The format, images and categories of an annotation file, with repaired ids.

    Args:
        json_file: a local path.
        kind: "coco" or "lvis"; None for the latter where a file has what that format alone has.

    Raises:
        FileNotFoundError, ValueError: see `read_categories`.
    """
    reading = _Reading(json_file, kind)
    reading.repair_ids()
    reading.repair_categories(any_ids=True)
    return reading.kind, reading.images, reading.categories


class _Reading:
    """The repair of one file: its content, changed in place, and what was changed."""

    def __init__(self, json_file: str, kind: str | None):
        self.json_file, self.kind = json_file, kind or "coco"
        self.counts: dict[str, int] = {}
        self.content = self.parsed()
        self.images = self.section("images")
        self.categories = self.section("categories")
        self.has_annotations = "annotations" in self.content
        self.annotations = self.section("annotations") if self.has_annotations else []
        if kind is None and self.looks_like_lvis():
            self.kind = "lvis"

    def looks_like_lvis(self) -> bool:
        keys: set[str] = set().union(*self.images, *self.categories)
        return bool(keys & {"neg_category_ids", "synonyms"}) or "file_name" not in keys

    def repaired(self, any_ids: bool) -> Annotations:
        for name, entries in (("images", self.images), ("categories", self.categories)):
            if not entries:
                self.refuse(f"`{name}` is empty", "fill it, or use another file")
        self.repair_ids()
        for image in self.images:
            self.repair_image(image)
        self.repair_categories(any_ids)
        sizes = {image["id"]: (image["height"], image["width"]) for image in self.images}
        listed = {category["id"] for category in self.categories}
        for number, annotation in enumerate(self.annotations):
            self.check_references(number, annotation, sizes, listed)
            self.repair_annotation(number, annotation, *sizes[annotation["image_id"]])
        self.number_annotations()
        kept = [a for a in self.annotations if has_area(a["bbox"], *sizes[a["image_id"]])]
        self.note(
            "left out {n} annotations whose box is empty or lies outside of its image, in training "
            "and in evaluation",
            len(self.annotations) - len(kept),
        )
        self.annotations = kept
        if self.kind == "lvis":
            self.complete_lvis()
        without = sum("segmentation" not in a for a in kept)
        if without < len(kept):
            self.note(
                "{n} annotations have no mask, others do: where masks are evaluated, their boxes "
                "count as masks",
                without,
            )
        sections = {"images": self.images, "categories": self.categories}
        if self.has_annotations:
            sections["annotations"] = kept
        elif self.kind == "lvis":  # whose evaluation needs the section
            sections["annotations"] = []
            self.note("there are no annotations in this file, nothing to evaluate by", 1)
        return Annotations(
            json_file=self.json_file,
            kind=self.kind,
            images=self.images,
            categories=self.categories,
            annotations=kept,
            notes=tuple(text.format(n=count) for text, count in self.counts.items()),
            content={**self.content, **sections},
        )

    def note(self, text: str, count: int = 1) -> None:
        """Count a repair; `text` has a place {n} for how many there were."""
        if count:
            self.counts[text] = self.counts.get(text, 0) + count

    def refuse(self, what: str, remedy: str) -> NoReturn:
        raise ValueError(f"{self.json_file}: {what}: {remedy}")

    # ------------------------------------------------------------------------------ the file

    def parsed(self) -> dict:
        with open(self.json_file, "rb") as file:
            encoded = file.read()
        if json.detect_encoding(encoded) != "utf-8":
            self.note("the text is in another form of Unicode than UTF-8 without a mark")
        try:
            content = json.loads(encoded)  # of UTF-8, -16 or -32, with or without a mark
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.json_file} is no JSON file, as its text is no UTF-8 ({error}): save it as "
                "UTF-8, or fetch it again"
            ) from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"{self.json_file} is no JSON file ({error}): fetch it again"
            ) from error
        if not isinstance(content, dict) or {"images", "categories"} - set(content):
            raise ValueError(
                f"{self.json_file} is no {self.kind.upper()} detection file: it needs the lists "
                "`images`, `categories` and, for training, `annotations`"
            )
        return content

    def section(self, name: str) -> list[dict]:
        entries = self.content[name]
        if not isinstance(entries, list):
            found = "null" if entries is None else f"of the type {type(entries).__name__}"
            self.refuse(f"`{name}` is {found}", "it must be a list of entries in { }")
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict):
                self.refuse(
                    f"`{name}` has {entry!r:.80} for entry number {number}",
                    "each entry must be in { }. Correct or remove it",
                )
        return entries

    # ------------------------------------------------------------------------------ ids

    def repair_ids(self) -> None:
        """Give images and categories, and what refers to them, ids of one type each."""
        for kind, entries, key in (
            ("image", self.images, "image_id"),
            ("category", self.categories, "category_id"),
        ):
            before = [self.id_of(kind, entry) for entry in entries]
            references = [annotation.get(key) for annotation in self.annotations]
            read = common_type(before, references, prefer_numbers=kind == "category")
            after = [read(value) for value in before]
            value, count = Counter(after).most_common(1)[0] if after else (None, 0)
            if count > 1:
                self.refuse(
                    f"{count} entries have the {kind} id {value}",
                    "only one of them would be used. Give each its own id",
                )
            changed = 0
            for entry, value in zip(entries, after):
                changed += type(entry["id"]) is not type(value)
                entry["id"] = value
            for annotation, value in zip(self.annotations, references):
                annotation[key] = read(value)
                changed += type(annotation[key]) is not type(value)
            written = "numbers" if read is as_number else "text"
            self.note(f"{{n}} {kind} ids are read as {written}", changed)

    def id_of(self, kind: str, entry: dict) -> int | str:
        value = entry.get("id")
        if value is None:
            self.refuse(f"the {kind} {entry!r:.200} has no `id`", "give it one")
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if not isinstance(value, int | str) or isinstance(value, bool):
            self.refuse(
                f"a {kind} has the id {value!r:.80}", "an id must be a whole number or a text"
            )
        return value

    def number_annotations(self) -> None:
        """Give every annotation its own id from 1 on, unless all have one."""
        ids = [annotation.get("id") for annotation in self.annotations]
        good = {value for value in ids if type(value) is int and 0 < value < LARGEST_ID}
        if len(good) == len(ids):
            return
        for number, annotation in enumerate(self.annotations, start=1):
            annotation["id"] = number
        self.note(
            "{n} annotations have no id of their own that is a number from 1 on: all are "
            "numbered anew",
            len(ids) - len(good),
        )

    # ------------------------------------------------------------------------------ entries

    def repair_image(self, image: dict) -> None:
        sizes = image.get("height"), image.get("width")
        for key, value in zip(("height", "width"), sizes):
            number = number_in(value)
            if number is None or not 0 < number <= LARGEST_SIDE or number != int(number):
                self.refuse(
                    f"image {image['id']} has height and width {sizes}", "give them in pixels"
                )
            if type(value) is not int:
                image[key] = int(number)
                self.note("{n} heights and widths of images are read as whole numbers")
        name = image.get("file_name")
        if self.kind == "lvis":  # whose own files have addresses and no names
            if not isinstance(image.get("coco_url"), str):
                image.pop("coco_url", None)
            if image.get("coco_url"):
                if not isinstance(name, str):
                    image.pop("file_name", None)
                name = image["coco_url"]
        if not name:
            self.refuse(f"image {image['id']} has no file_name", "add it")
        if not isinstance(name, str):
            self.refuse(f"image {image['id']} has the file_name {name!r:.80}", "it must be a text")

    def repair_categories(self, any_ids: bool) -> None:
        for category in self.categories:
            name, synonyms = category.get("name"), category.get("synonyms")
            if self.kind == "lvis" and synonyms and isinstance(synonyms, list):
                name = synonyms[0]
            if isinstance(name, int | float) and not isinstance(name, bool):
                name = str(name)
                self.note("{n} names of categories are numbers, read as text")
            if not isinstance(name, str) or not name.strip():
                self.refuse(f"category {category['id']!r} has no name", "give it one")
            category["name"] = name
        self.categories.sort(key=lambda category: category["id"])
        counts = Counter(category["name"] for category in self.categories)
        repeated = [category for category in self.categories if counts[category["name"]] > 1]
        if repeated:
            for category in repeated:
                category["name"] = f"{category['name']} (id {category['id']})"
            names = shorten([category["name"] for category in repeated])
            self.note(
                f"{{n}} categories share their names, their ids tell them apart here: {names}. "
                "Merge them, unless they are meant to differ",
                len(repeated),
            )
        ids = [category["id"] for category in self.categories]
        if self.kind == "lvis" and not any_ids and ids != list(range(1, len(ids) + 1)):
            self.refuse(
                f"it has the category ids {shorten(ids)}",
                f"in LVIS format they run from 1 to their number, {len(ids)}. Number them anew, or "
                "register the file with register_coco_instances",
            )

    def check_references(self, number: int, annotation: dict, images: dict, listed: set) -> None:
        image, category = annotation["image_id"], annotation["category_id"]
        if not isinstance(image, int | str) or image not in images:
            self.refuse(
                f"{_named(number, annotation)} belongs to image {image!r}, which `images` does not "
                f"list (it has {shorten(list(map(repr, images)))})",
                "add the image or remove the annotation",
            )
        if not isinstance(category, int | str) or category not in listed:
            self.refuse(
                f"{_named(number, annotation)} has category_id {category!r}, which `categories` "
                f"does not list (it has {shorten([repr(c['id']) for c in self.categories])})",
                "add it there or correct the annotation",
            )

    def repair_annotation(self, number: int, annotation: dict, height: int, width: int) -> None:
        """The box, the crowd flag, the mask and the area of an annotation."""
        where = _named(number, annotation)
        box = annotation.get("bbox")
        if not is_box(box):
            numbers = [number_in(value) for value in box] if isinstance(box, list) else []
            if len(numbers) != 4 or None in numbers:
                self.refuse(
                    f"{where} has the bbox {box!r:.80}",
                    "it must be four finite numbers x, y, width, height in pixels. Correct or "
                    "remove the annotation",
                )
            annotation["bbox"] = numbers
            self.note("{n} boxes have numbers written as text")

        flag = annotation.get("iscrowd")
        if type(flag) is not int or flag not in (0, 1):
            if isinstance(flag, list | dict) or flag not in _FLAGS:
                self.refuse(
                    f"{where} has iscrowd {flag!r:.80}",
                    "it must be 1 for a region of many objects and 0 for one object",
                )
            annotation["iscrowd"] = _FLAGS[flag]
            if flag is not None:
                self.note("{n} annotations have an `iscrowd` of another type, read as 0 or 1")
            elif self.kind == "coco":  # LVIS format has no such field
                self.note("{n} annotations have no `iscrowd`: they are single objects")
        if annotation.pop("ignore", 0):
            self.note("{n} annotations have `ignore`, which these formats do not know: they count")

        before = annotation.pop("segmentation", None)
        try:
            mask = usable_segmentation(before, height, width)
        except ValueError as error:
            raise ValueError(
                f"{self.json_file}: {where} has a segmentation that is none: {error}. Correct or "
                "remove it"
            ) from error
        if mask is not None:
            annotation["segmentation"] = mask
        if before and (mask is None or len(mask) < len(before)):
            self.note(
                "{n} annotations have polygons of fewer than three points or with half a point: "
                "they are left out, their boxes are kept"
            )

        area = annotation.get("area")
        if not _is_area(area):
            read = number_in(area)
            annotation["area"] = read if _is_area(read) else _area(annotation, height, width)
            self.note(
                "{n} annotations have no `area` that is a number above 0: it is read, or computed "
                "from their masks, or else from their boxes"
            )

    # ------------------------------------------------------------------------------ LVIS

    def complete_lvis(self) -> None:
        self.note(
            "{n} annotations are crowd regions, which LVIS format does not know: training leaves "
            "them out, and evaluation does not count what is found there",
            sum(annotation["iscrowd"] for annotation in self.annotations),
        )
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            for image in self.images:
                if image.get(key) is None:
                    image[key] = []
                    self.note(f"{{n}} images have no `{key}`: it is taken as empty")
                ids = image[key]
                if not isinstance(ids, list) or not all(isinstance(i, int | str) for i in ids):
                    self.refuse(
                        f"image {image['id']} has {key} {image[key]!r:.80}",
                        "it must be a list of category ids",
                    )
        images_of: dict[Any, set] = {category["id"]: set() for category in self.categories}
        for annotation in self.annotations:
            images_of[annotation["category_id"]].add(annotation["image_id"])
        for category in self.categories:
            count = category.get("image_count")
            if type(count) is not int or not 0 <= count < LARGEST_ID:
                count = category["image_count"] = len(images_of[category["id"]])
                self.note("{n} categories have no `image_count`: their images are counted")
            if category.get("frequency") not in ("r", "c", "f"):
                category["frequency"] = "r" if count <= RARE else "c" if count <= COMMON else "f"
                self.note(
                    "{n} categories have no `frequency`: they are rare up to 10 images, common up "
                    "to 100"
                )


def shorten(values: Sequence) -> str:
    """At most ten of the values, as text."""
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")


def _named(number: int, annotation: dict) -> str:
    return f"annotation {annotation.get('id', f'number {number}')}"


def is_box(box: Any) -> bool:
    """Whether a value is a list of four finite numbers."""
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, int | float) and is_finite(v) for v in box)
    )


def has_area(box: Sequence[float], height: float, width: float) -> bool:
    """Whether a box x, y, width, height has an area inside an image of that size."""
    x, y, w, h = box
    return min(x + w, width) > max(x, 0) and min(y + h, height) > max(y, 0)


def _is_area(area: Any) -> bool:
    """Whether a value can be an area. Some tools write 0 for all objects."""
    return isinstance(area, int | float) and area > 0 and is_finite(area)


def _area(annotation: dict, height: int, width: int) -> float:
    """The area of an annotation's mask in its image; of its box without one."""
    if "segmentation" in annotation:
        area = float(mask_util.area(compressed(annotation["segmentation"], height, width)))
        if area:
            return area
    return float(annotation["bbox"][2] * annotation["bbox"][3])
