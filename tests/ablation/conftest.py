"""Runs of a model that nobody trains: a stub writes what a training would leave."""

import pytest
from toy_runs import CONFIG

from co_detr.ablation.runs import Run


@pytest.fixture
def make_run(tmp_path):
    """Make a run of a few iterations, in a folder of its own."""

    def make(seed=0, name="model", iterations=4):
        folder = tmp_path / "digits" / name / f"seed{seed}"
        return Run(CONFIG, (f"train.max_iter={iterations}",), seed, folder)

    return make
