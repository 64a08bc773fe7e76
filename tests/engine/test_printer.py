"""The line of progress."""

import pytest
from detectron2.utils.events import EventStorage

from co_detr.engine import printer
from co_detr.engine.printer import GroupedMetricPrinter


def storage_with(**scalars):
    storage = EventStorage(start_iter=9)
    for name, value in scalars.items():
        storage.put_scalar(name.replace("__", "/"), value)
    return storage


def test_losses_are_summed_by_group_and_the_rest_of_the_time_is_told():
    storage = storage_with(
        total_loss=10.0,
        matching__loss_class_0=1.0,
        matching__loss_class_1=2.5,
        customized__atss__loss_box_0=4.0,
        grad_norm=3.0,
        time=0.5,
        lr=1e-4,
    )
    assert GroupedMetricPrinter(max_iter=30).parts(storage) == [
        "eta: 0:00:10",  # 20 iterations are left
        "iter: 10/30",
        "total_loss: 10",
        "matching: 3.5",
        "customized/atss: 4",
        "time: 0.500 s",
        "lr: 0.0001",
    ]


@pytest.mark.parametrize("iteration, lines", [(9, 1), (10, 0)])
def test_nothing_is_printed_after_the_last_iteration(iteration, lines, monkeypatch):
    printed = []
    monkeypatch.setattr(printer.logger, "info", printed.append)
    with EventStorage(start_iter=iteration) as storage:
        storage.put_scalar("total_loss", 1.0)
        GroupedMetricPrinter(max_iter=10).write()
    assert len(printed) == lines
