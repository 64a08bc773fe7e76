"""Pictures that cannot be read are named, counted and left out, as long as they are few."""

import logging
import struct
import zlib
from collections.abc import Callable

from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from co_detr.data.pictures import UnreadablePicture, reason_of

logger = logging.getLogger(__name__)

# What mappers raise that read by detectron2's `read_image`, or find another size than annotated.
READING_ERRORS = (
    OSError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    SizeMismatchError,
)


class UnreadableCount:
    """Counts the pictures that were and were not read.

    One limit holds wherever pictures are read: of the pictures that are to be read, or else were, a
    hundredth may be unreadable, but ten may always: few pictures say little about a share. A
    picture that is met again, in the next epoch, is none more.

    Args:
        total: number of pictures to be read, where it is known.
    """

    ALWAYS_ALLOWED = 10
    ALLOWED_SHARE = 0.01

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self.num_read = 0
        self._unreadable: set[str] = set()

    def add_read(self) -> None:
        self.num_read += 1

    def add_unreadable(self, error: UnreadablePicture) -> None:
        """Count a picture, and log its name and the reason the first time."""
        if str(error.file) in self._unreadable:
            return
        self._unreadable.add(str(error.file))
        logger.warning(f"{error}; left out, {self.num_unreadable} skipped so far in this process")

    @property
    def num_unreadable(self) -> int:
        return len(self._unreadable)

    @property
    def num_seen(self) -> int:
        seen = self.num_read + self.num_unreadable
        return min(seen, self.total) if self.total else seen

    @property
    def exceeds_limit(self) -> bool:
        share = self.ALLOWED_SHARE * (self.total or self.num_seen)
        return self.num_unreadable > max(self.ALWAYS_ALLOWED, share)

    def too_many(self, last: UnreadablePicture) -> RuntimeError:
        """The error to end with."""
        return RuntimeError(
            f"{self.num_unreadable} of {self.num_seen} images could not be read, the last one "
            f"{last.file}: {last.reason}. Fetch the images again, or remove the broken ones from "
            "the annotations"
        )


def read_example(mapper: Callable[[dict], dict | None], record: dict) -> dict | None:
    """What a mapper makes of a record.

    Raises:
        UnreadablePicture: the picture of the record is missing or broken, or has another size than
            the record says.
    """
    try:
        return mapper(record)
    except UnreadablePicture:
        raise
    except READING_ERRORS as error:
        name = record.get("file_name", "")
        raise UnreadablePicture(name, reason_of(name, error)) from error


class OrUnreadable:
    """A mapper whose result may be an `UnreadablePicture` in place of an example, which travels
    from worker processes like one."""

    def __init__(self, mapper: Callable[[dict], dict]) -> None:
        self.mapper = mapper

    def __call__(self, record: dict) -> dict | UnreadablePicture | None:
        try:
            return read_example(self.mapper, record)
        except UnreadablePicture as error:
            return UnreadablePicture(error.file, error.reason)  # without the frames it came through
