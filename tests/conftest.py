"""Makes `detectron2` importable before any test module is collected; gives tests fresh loggers."""

import logging
import signal

import pytest

import co_detr  # noqa: F401  makes detectron2 importable

from detectron2.utils.logger import setup_logger  # isort: skip

# What `nohup` and a shell's "&" ignore, every process of a test would go on to ignore.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def fresh_loggers():
    """Loggers as in a new process, also after a job that was run by a fixture of wider scope.

    A job sets them up for good: its records no longer reach `caplog`, and where upstream made the
    handlers, once per name, they write to what `sys.stdout` was in the test that came first.
    """
    _reset_loggers()
    yield
    _reset_loggers()


def _reset_loggers():
    for name in ("co_detr", "detectron2", "fvcore"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        logger.handlers.clear()
    getattr(setup_logger, "cache_clear", lambda: None)()
