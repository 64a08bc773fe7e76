"""What a folder belongs to: one process that trains there, and the config of its training."""

import contextlib
import errno
import os
from collections.abc import Iterator

from detectron2.utils import comm

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CONFIG, LOCK = "config.yaml", ".training"
_NEW_CONFIG, _OLD_CONFIG = f".{CONFIG}.partial", f".{CONFIG}.before"


@contextlib.contextmanager
def claimed(folder: str) -> Iterator[None]:
    """Inside, no other job may train in a folder; the system ends the claim of a process that ends.

    On all ranks, of which the main process holds the claim.

    Raises:
        FileExistsError: another one does; on every rank.
    """
    with contextlib.ExitStack() as stack:
        error = None
        if comm.is_main_process() and fcntl is not None:
            os.makedirs(folder, exist_ok=True)
            # of the process alone: what it forks does not go on to hold it
            file = stack.enter_context(open(os.path.join(folder, LOCK), "w"))
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as obstacle:
                if obstacle.errno in (errno.EACCES, errno.EAGAIN):  # else there are no locks here
                    error = FileExistsError(
                        f"train.output_dir={folder}: another process is training there. Wait for "
                        "its end, or give this run a folder of its own, train.output_dir=..."
                    )
        if error := comm.all_gather(error)[0]:
            raise error
        yield


@contextlib.contextmanager
def config_kept(folder: str, *, keep: bool, new_one_waits: bool = False) -> Iterator[None]:
    """Inside, config.yaml may be written; afterwards it is as before, if there was one.

    Args:
        folder: of a run.
        keep: whether that is wanted at all.
        new_one_waits: for `take_new_config`; otherwise it is dropped.
    """
    path, new, old = (os.path.join(folder, name) for name in (CONFIG, _NEW_CONFIG, _OLD_CONFIG))
    if not comm.is_main_process():
        yield
        return
    # what starts have left that were killed in here, or refused afterwards
    with contextlib.suppress(FileNotFoundError):
        os.replace(old, path)
    with contextlib.suppress(FileNotFoundError):
        os.remove(new)
    if not keep or not os.path.isfile(path):
        yield
        return
    os.replace(path, old)
    try:
        yield
    finally:
        if new_one_waits and os.path.isfile(path):
            os.replace(path, new)
        os.replace(old, path)


def take_new_config(folder: str) -> None:
    """Let config.yaml be the one that was written last."""
    new = os.path.join(folder, _NEW_CONFIG)
    if comm.is_main_process() and os.path.isfile(new):
        os.replace(new, os.path.join(folder, CONFIG))
