"""Signals that ask a job to end: SIGINT (Ctrl-C), SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2.

They are what a terminal, a container, `kill` and a scheduler send, Slurm's `--signal` included.
Inside `handled()` such a signal ends the process by an `Interrupted` exception; inside
`postponed()` it is only noted, for the training to end after a whole step. A second signal, or a
first one that nothing reacts to, ends the process on the spot.
"""

import contextlib
import functools
import logging
import multiprocessing
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from detectron2.utils import comm
from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

# One wish to end can come as several signals: `timeout` and schedulers signal a process and its
# group, and a launcher passes on what the terminal sent to its children as well.
SAME_WISH = 1.0  # seconds after the first signal in which others belong to it
SAME_WISH_LAUNCHED = 5.0  # in a process that has a launcher
UNHEARD = 5.0  # seconds in which a process that has nothing to save must have begun to end
POLL = 1.0  # seconds between looks at whether the launcher is alive


class Interrupted(SystemExit):
    """The process was asked to end by a signal. Uncaught, it ends with exit code 128 + signal.

    Args:
        signum: the signal.
        outcome: what became of the job, for the log.
    """

    def __init__(self, signum: int, outcome: str):
        super().__init__(128 + signum)
        self.signum = signal.Signals(signum)
        self.outcome = outcome


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Inside, a signal raises `Interrupted` in the main thread, and the loss of the launcher, too.

    The handlers from before are restored afterwards. Signals that are ignored, as SIGHUP is under
    `nohup`, stay so. Inside another `handled()` and outside of the main thread it does nothing.
    """
    global _listener
    if _listener is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    listener = _listener = _Listener(_launcher())
    try:
        yield
    except Interrupted as interrupted:
        logger.warning(f"{interrupted.signum.name}: {interrupted.outcome}")
        raise
    finally:
        if _listener is listener:  # not in a forked process
            listener.close()
            _listener = None


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Inside, a signal is noted for `received`, and nothing is raised.

    One that the body did not react to came too late to matter: nothing is raised afterwards either.
    """
    listener = _listener
    if listener is None:
        yield
        return
    listener.postponing = True
    try:
        yield
    finally:
        listener.acted = listener.signum != 0
        listener.postponing = False


def received() -> int:
    """The signal that asked this process to end, 0 for none."""
    return _listener.signum if _listener is not None else 0


def received_by_any() -> int:
    """The signal that asked some rank to end, 0 for none; the same on all, which all call it."""
    return next((signum for signum in comm.all_gather(received()) if signum), 0)


def shield_workers(loader: Any) -> Any:
    """Let the worker processes of a loader outlive signals that are meant for the job.

    A terminal and a scheduler signal them, too; but the batches that the last step needs are
    theirs. They go on to end with the process they work for, and when it tells them to.

    Args:
        loader: torch's `DataLoader`, which is changed; anything else is left as it is.
    """
    if isinstance(loader, DataLoader):
        loader.worker_init_fn = functools.partial(_shield, loader.worker_init_fn)
    return loader


def _ignore_all_but_sigterm() -> None:
    for signum in CAUGHT:
        if signum != signal.SIGTERM:
            signal.signal(signum, signal.SIG_IGN)


def _shield(before: Any, worker_id: int) -> None:
    _ignore_all_but_sigterm()
    if hasattr(signal, "sigwaitinfo"):
        # SIGTERM is also how the parent ends a worker: only this call tells who sent it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_order_of_the_parent, daemon=True).start()
    if before is not None:
        before(worker_id)


def _end_by_order_of_the_parent() -> None:
    # of which a worker that a server has forked is no child
    parent = multiprocessing.parent_process()
    pid = os.getppid() if parent is None else parent.pid
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != pid:
        pass
    os._exit(0)


class _Listener:
    """Handles signals in the main thread, and watches in another one that they have an effect.

    The watching thread learns of a signal at once, even while the main thread is deep in a
    collective and runs no Python.

    Args:
        launcher: process id of a parent whose end is taken for SIGTERM; None for a parent that may
            end, such as a shell.

    Attributes:
        signum: the first signal that came, 0 before.
        postponing: whether signals are only noted.
        acted: whether the process is about to end already.
    """

    def __init__(self, launcher: int | None):
        self.signum = 0
        self.postponing = False
        self.acted = False
        self._launcher = launcher
        self._same_wish = SAME_WISH_LAUNCHED if launcher else SAME_WISH
        self._before: dict[int, Any] = {}
        for signum in CAUGHT:
            handler = signal.getsignal(signum)
            # by SIGINT torch tells spawned processes that their launcher is gone
            ignored = handler is signal.SIG_IGN and not (launcher and signum == signal.SIGINT)
            if handler is not None and not ignored:
                self._before[signum] = signal.signal(signum, self._handle)
        self._inbox, self._outbox = socket.socketpair()
        self._outbox.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._outbox.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="signals")
        self._thread.start()

    def close(self) -> None:
        self.restore()
        self._outbox.shutdown(socket.SHUT_WR)  # ends the thread
        self._thread.join()
        self._outbox.close()
        self._inbox.close()

    def restore(self, wakeup_fd: int | None = None) -> None:
        """Put the handlers from before in place again.

        Args:
            wakeup_fd: in place of the one from before.
        """
        signal.set_wakeup_fd(self._wakeup_before if wakeup_fd is None else wakeup_fd)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.signum = self.signum or signum
        if not self.postponing and not self.acted:
            self.acted = True
            raise Interrupted(signum, "ended outside of training, where there is nothing to save")

    def _watch(self) -> None:
        first = None
        while True:
            came = b""
            if select.select([self._inbox], [], [], POLL)[0]:
                came = self._inbox.recv(256)  # a byte for each signal, of every kind
                if not came:
                    return
            for signum in CAUGHT:
                if signum not in came:
                    continue
                if first is None:
                    first, since = signum, time.monotonic()
                    self._announce(signum)
                elif time.monotonic() - since > self._same_wish:
                    _end_at_once(signum, "again")
            if first is None:
                self._check_launcher()
            elif not (self.postponing or self.acted) and time.monotonic() - since > UNHEARD:
                _end_at_once(first, "unheard")

    def _announce(self, signum: int) -> None:
        if self.postponing and comm.is_main_process():
            _tell(f"{signal.Signals(signum).name}: stops after this step; again: at once")

    def _check_launcher(self) -> None:
        if self._launcher and os.getppid() != self._launcher:
            main = threading.main_thread().ident
            assert main is not None  # it has started
            signal.pthread_kill(main, signal.SIGTERM)


_listener: _Listener | None = None


def _forget_in_child() -> None:
    """A forked process neither reacts to signals as its parent does, nor wakes up its thread.

    It is a loader's worker: signals to the group are not for it, even before it can shield itself.
    """
    global _listener
    if _listener is not None:
        _listener.restore(wakeup_fd=-1)
        _listener = None
        _ignore_all_but_sigterm()


os.register_at_fork(after_in_child=_forget_in_child)


def _launcher() -> int | None:
    """Process id of the parent, if that is a process that launches the ranks of a job."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        return parent.pid
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None


def _tell(message: str) -> None:
    """Write to the console, past logging, whose locks the main thread may hold for ever."""
    with contextlib.suppress(OSError):
        os.write(2, f"{message}\n".encode())


def _end_at_once(signum: int, why: str) -> None:
    _tell(f"{signal.Signals(signum).name} {why}: ended at once; --resume takes the last checkpoint")
    os._exit(128 + signum)
