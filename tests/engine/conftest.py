"""What all tests of jobs need."""

import logging

import pytest


@pytest.fixture(autouse=True)
def restored_loggers():
    """Every job adds its log file to the loggers."""
    loggers = [logging.getLogger(name) for name in ("co_detr", "detectron2", "fvcore")]
    before = [(log, log.level, log.propagate, list(log.handlers)) for log in loggers]
    yield
    for log, level, propagate, handlers in before:
        log.setLevel(level)
        log.propagate = propagate
        log.handlers[:] = handlers
