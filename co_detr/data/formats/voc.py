"""Pascal VOC: an XML file per picture.

The devkit counts pixels from 1 and includes the last one, so that its box begins at xmin - 1 and
ends at xmax. Several tools write edges from 0 under the same names. An edge at 0 or between pixels
cannot be the devkit's: data that have one are read as they are, all others by the devkit's rule.
"""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from co_detr.data.values import number_in

from .pictures import Named, find_pictures
from .split import Labelled, Object, Split, build_split, natural_order, split_name
from .text import read_text

EDGES = ("xmin", "ymin", "xmax", "ymax")
FROM_ZERO = "boxes are read as edges in pixels from 0: some begin at 0 or between pixels"
FROM_ONE = "boxes are read as pixels from 1, both ends included, as in Pascal VOC's own files"


def read_folder(folder: Path, files: list[Path]) -> list[Split]:
    """The splits of the XML files of a folder: by the lists in `ImageSets/Main`, or by folder.

    Raises:
        ValueError: a file is no XML, or an object has no name or no box.
    """
    trees = {file: parse(file) for file in files}
    boxes = {file: list(edges_of(file, tree)) for file, tree in trees.items()}
    every = [edges for found in boxes.values() for _, edges in found]
    from_zero = any(min(e[:2]) < 1 or any(v != int(v) for v in e) for e in every)
    shift = 0 if from_zero else 1
    names = natural_order(name for found in boxes.values() for name, _ in found)
    lists = image_sets(folder)
    groups: dict[str, list[Labelled]] = {}
    splits = [
        lists.get(file.stem, "all") if lists else split_name(file.parent, folder) for file in trees
    ]
    named = [picture_of(*each, split) for each, split in zip(trees.items(), splits)]
    for file, split, path in zip(trees, splits, find_pictures(named, folder)):
        objects: list[Object] = [
            (name, (x0 - shift, y0 - shift, x1 - x0 + shift, y1 - y0 + shift), None)
            for name, (x0, y0, x1, y1) in boxes[file]
        ]
        groups.setdefault(split, []).append(Labelled(path, objects))
    if lists:
        groups.pop("all", None)  # in no list: in no split
    notes = [FROM_ZERO if from_zero else FROM_ONE]
    return [build_split(name, folder, group, names, notes) for name, group in groups.items()]


def parse(file: Path) -> ElementTree.Element:
    """The content of an XML file.

    Raises:
        ValueError: it is no XML, or in an encoding that Python's reader of XML lacks.
    """
    try:
        return ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{file} is no XML file ({error}): export it again") from error
    except (ValueError, LookupError) as error:  # GB2312, say, and names of no encoding
        raise ValueError(
            f"{file} is XML in an encoding that cannot be read ({error}): save it as UTF-8, and "
            'let its first line say encoding="UTF-8"'
        ) from error


def edges_of(file: Path, tree: ElementTree.Element) -> Iterator[tuple[str, list[float]]]:
    """Class name and left, upper, right and lower edge of each object, as written."""
    for number, entry in enumerate(tree.iter("object"), start=1):
        name = (entry.findtext("name") or "").strip()
        values = [number_in(entry.findtext(f"bndbox/{edge}")) for edge in EDGES]
        edges = [value for value in values if value is not None]
        if not name or len(edges) < len(EDGES):
            raise ValueError(
                f"{file}: object number {number} lacks a name or a bndbox of four numbers: correct "
                "or remove it"
            )
        yield name, edges


def picture_of(file: Path, tree: ElementTree.Element, split: str) -> Named:
    """The picture of an XML file: its `filename`, beside the file or in a folder of pictures."""
    name = (tree.findtext("filename") or "").strip() or file.stem
    parents = [file.parent, *(file.parent.parent / d for d in ("JPEGImages", "images"))]
    return Named(name, parents, split)


def image_sets(folder: Path) -> dict[str, str]:
    """Split by the file name, without suffix, of a picture; {} without lists."""
    found: dict[str, str] = {}
    for name, files in (("train", ("train.txt",)), ("val", ("val.txt",)), ("test", ("test.txt",))):
        for file in files:
            for path in sorted(folder.rglob(f"ImageSets/Main/{file}")):
                lines = (line.split() for line in read_text(path).splitlines())
                found |= {words[0]: name for words in lines if words}
    return found
