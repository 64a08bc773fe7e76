"""Files that a killed process leaves either old or new, never in between; and full disks."""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

# of a disk, a quota, a limit of the process
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_NAME = 255  # bytes, in all common file systems


@contextlib.contextmanager
def whole_file(path: str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a local file for writing that takes its name when it is complete and on the disk.

    Args:
        path: an existing file stays untouched until then, and for good after an exception.
        mode: "w" for text, which becomes UTF-8, or "wb".

    Raises:
        OSError: there is no room for it; says how much there is, and where.
    """
    folder, name = os.path.split(path)
    partial = os.path.join(folder, _partial_name(name))
    with naming_full_disk(path):
        try:
            with open(partial, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.remove(partial)
            raise


def remove_partial_files(folder: str, suffix: str) -> None:
    """Remove what processes left behind that were killed inside `whole_file`.

    Args:
        folder: looked through, without its subfolders.
        suffix: of the names that the files would have had.
    """
    for path in Path(folder).glob(f".*{suffix}.partial"):
        path.unlink(missing_ok=True)


def _partial_name(name: str) -> str:
    """What a file is called before it is complete: hidden, and with the end of its name, by which
    it is found in the end."""
    partial = f".{name}.partial"
    if len(os.fsencode(partial)) <= LONGEST_NAME:
        return partial
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()}{name[-40:]}.partial"


@contextlib.contextmanager
def naming_full_disk(path: str) -> Iterator[None]:
    """Inside, an exception for want of room on a disk names the file, and the disk it is on.

    Args:
        path: what is written, or the folder where.

    Raises:
        OSError: with the number of the first cause and `path` as its filename.
    """
    try:
        yield
    except Exception as error:
        cause = _want_of_room(error)
        if cause is None or isinstance(error, NoRoomError):
            raise
        raise NoRoomError(cause.errno, _description(cause, path), path) from cause


class NoRoomError(OSError):
    """A file could not be written for want of room."""


def _want_of_room(error: BaseException | None) -> OSError | None:
    """The want of room behind an exception; libraries stumble over it and raise their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return error
        error = error.__cause__ or error.__context__
    return None


def _description(cause: OSError, path: str) -> str:
    disk = os.path.realpath(path)
    while not os.path.ismount(disk):
        disk = os.path.dirname(disk)
    usage = shutil.disk_usage(disk)
    limit = " for this process (ulimit -f)" if cause.errno == errno.EFBIG else ""
    return (
        f"{cause.strerror}{limit}: the disk at {disk} has {usage.free / 2**20:.0f} of "
        f"{usage.total / 2**20:.0f} MiB free. Files from before are as they were: make room, or "
        "keep fewer checkpoints (train.checkpointer.max_to_keep), and continue with --resume. "
        "Could not write"
    )
