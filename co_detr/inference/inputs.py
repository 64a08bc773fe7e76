"""Which picture files a command line means."""

import glob
import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import Image, ImageFile

from co_detr.data.pictures import formats_read

OTHER_SUFFIX = "no pictures by their suffix"
HIDDEN = "hidden"
OWN_OUTPUT = "in the output folder"


@cache
def picture_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of the formats that are read, see `formats_read`."""
    suffixes = Image.registered_extensions()  # loads the plug-ins
    only_named = {"MPEG"} | {  # found by Pillow, but never read
        name
        for name, (factory, _) in Image.OPEN.items()
        if isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    }
    readable = {*formats_read(), "MPO"} - only_named  # the latter is opened as JPEG
    return frozenset(suffix for suffix, name in suffixes.items() if name in readable)


def has_picture_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in picture_suffixes()


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out where a folder is looked into: macOS writes
    `._a.jpg`, which is no picture, beside `a.jpg` on disks of other systems."""
    return name.startswith(".")


def find_pictures(
    inputs: list[str], *, recursive: bool = False, output: Path | None = None
) -> tuple[list[Path], Counter[str]]:
    """The picture files that files, folders and glob patterns stand for, each once.

    Of a folder, the files with a suffix that Pillow reads are taken, in the order of their names,
    but for hidden ones and what is in hidden folders.

    Args:
        inputs: `~` stands for the home folder.
        recursive: whether to look into the folders of folders, too.
        output: left out where it lies in a folder: it holds what was drawn before.

    Returns:
        The files, and how many files of folders were left out, by reason.

    Raises:
        FileNotFoundError: one of the inputs stands for nothing.
    """
    found: dict[str, Path] = {}  # by absolute path
    skipped: Counter[str] = Counter()
    for name in inputs:
        path = Path(os.path.expanduser(name))
        if path.is_dir():
            files = list(_files(path, recursive, output, skipped))
            paths = [p for p in files if has_picture_suffix(p.name)]
            skipped[OTHER_SUFFIX] += len(files) - len(paths)
            nothing = f"no pictures in the folder {name}"
            if not recursive:
                nothing += " (--recursive looks into its folders, too)"
        elif path.is_file():
            paths, nothing = [path], ""
        else:
            matches = sorted(glob.glob(str(path), recursive=True))
            paths = [Path(match) for match in matches if os.path.isfile(match)]
            nothing = f"no file, folder or pattern with matches: {name}"
            if "=" in name:
                nothing += " (overrides of the config go last, after another option)"
        if not paths:
            raise FileNotFoundError(nothing)
        for each in paths:
            found.setdefault(os.path.abspath(each), each)
    return list(found.values()), skipped


def _files(
    folder: Path, recursive: bool, output: Path | None, skipped: Counter[str]
) -> Iterator[Path]:
    """The files of a folder, by name, each folder's own before those of the folders in it."""
    everything = sorted(folder.iterdir())
    entries = [entry for entry in everything if not is_hidden(entry.name)]
    skipped.update(HIDDEN for entry in everything if is_hidden(entry.name) and entry.is_file())
    yield from (entry for entry in entries if entry.is_file())
    for entry in entries if recursive else ():
        if not entry.is_dir() or entry.is_symlink():  # a link may lead around in a circle
            continue
        if output is not None and output.is_dir() and entry.samefile(output):
            skipped[OWN_OUTPUT] += sum(path.is_file() for path in entry.rglob("*"))
            continue
        yield from _files(entry, recursive, output, skipped)
