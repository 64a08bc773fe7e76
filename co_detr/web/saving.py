"""Files that the page offers, for as long as somebody may want them."""

import contextlib
import hashlib
from collections import deque
from pathlib import Path

KEPT = 20  # files that can still be saved


class LastFiles:
    """The last files that were written; those before are removed.

    Others may remove files, too: Gradio does so after a day.

    Args:
        folder: for them, each in one of its own by what is in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: deque[Path] = deque()

    def write(self, name: str, text: str) -> Path:
        """Write a file as UTF-8; one of the same name and text takes its place."""
        file = self.folder / hashlib.sha256(text.encode()).hexdigest() / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")  # in any case, so that it lasts from now on
        if file in self._files:
            self._files.remove(file)
        self._files.append(file)
        while len(self._files) > KEPT:
            self._remove(self._files.popleft())
        return file

    def _remove(self, file: Path) -> None:
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another file is in there
            file.parent.rmdir()
