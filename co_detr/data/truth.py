"""Repaired annotation files for those who read them by their path: detectron2's evaluators.

Both detectron2s ask `PathManager` for the local file of a path. For an annotation file that had to
be repaired the answer is a copy, made when it is first asked for and gone when the process ends. So
`COCOEvaluator`, `LVISEvaluator`, `load_coco_json` and all that builds on them see what training
sees.
"""

import functools
import json
import os
import tempfile
from pathlib import Path

from detectron2.utils.file_io import PathManager

from co_detr.paths import HomePathHandler

from .annotations import read_annotations


def share_repaired(json_file: str, kind: str, any_ids: bool) -> None:
    """From now on, `PathManager` finds the repaired copy of a local annotation file.

    Args:
        json_file: a local path.
        kind, any_ids: see `read_annotations`.
    """
    _repaired_files().add(json_file, kind, any_ids)


class _RepairedFiles(HomePathHandler):
    """Finds local files; for annotation files with faults, their repaired copies. There is one
    finder of local files at a time, so this one knows the home folder, too."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="co_detr_annotations_")
        self.kinds: dict[str, tuple[str, bool]] = {}
        self.copies: dict[str, tuple[int, int, str]] = {}  # time and size of the original, copy

    def add(self, path: str, kind: str, any_ids: bool) -> None:
        path = os.path.abspath(os.path.expanduser(path))
        if self.kinds.get(path) != (kind, any_ids):
            self.kinds[path] = kind, any_ids
            self.copies.pop(path, None)

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        local = super()._get_local_path(path, force=force, **kwargs)
        original = os.path.abspath(local)
        return self.copy_of(original) if original in self.kinds else local

    def copy_of(self, original: str) -> str:
        """The repaired copy of a file as it is now; the file itself once it has no faults."""
        state = os.stat(original)
        time, size, copy = self.copies.get(original, (0, 0, ""))
        if (time, size) != (state.st_mtime_ns, state.st_size):
            kind, any_ids = self.kinds[original]
            annotations = read_annotations(original, kind, any_ids=any_ids)
            copy = original
            if annotations.notes:
                number = list(self.kinds).index(original)
                copy = os.path.join(self.folder.name, f"{number}_{os.path.basename(original)}")
                Path(copy).write_text(json.dumps(annotations.truth()))
            self.copies[original] = state.st_mtime_ns, state.st_size, copy
        return copy


@functools.cache
def _repaired_files() -> _RepairedFiles:
    """The one of this process, put in the place of `PathManager`'s finder of local files."""
    handler = _RepairedFiles()
    PathManager.register_handler(handler)
    return handler
