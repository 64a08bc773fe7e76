"""Scalars for W&B and MLflow, which stand-ins take the place of."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage, EventWriter
from omegaconf import OmegaConf

from co_detr.engine.loggers import build_loggers, names_of


def config(folder, *loggers):
    return OmegaConf.create(
        {
            "train": {"output_dir": str(folder), "loggers": list(loggers), "max_iter": 9},
            "optimizer": {"lr": 0.1},
        }
    )


def stand_in(monkeypatch, name, **functions):
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def wandb(monkeypatch):
    """What `wandb` is told."""
    told = []

    def init(**options):
        told.append(("init", options))
        return SimpleNamespace(
            id="run7",
            log=lambda scalars, step: told.append((step, scalars)),
            finish=lambda: told.append("finish"),
        )

    stand_in(monkeypatch, "wandb", init=init)
    return told


@pytest.fixture
def mlflow(monkeypatch):
    """What `mlflow` is told."""
    told = []

    def start_run(**options):
        told.append(("start_run", options))
        return SimpleNamespace(info=SimpleNamespace(run_id="run7"))

    stand_in(
        monkeypatch,
        "mlflow",
        start_run=start_run,
        set_experiment=lambda name: None,
        log_params=lambda values: told.append(("log_params", values)),
        log_metrics=lambda scalars, step: told.append((step, scalars)),
        end_run=lambda: told.append("finish"),
    )
    return told


def write_three_times(writer):
    """Scalars of iterations 0 and 1, nothing new, and a result after the end."""
    assert isinstance(writer, EventWriter)
    with EventStorage() as storage:
        storage.put_scalar("total_loss", 3.0)
        storage.step()
        storage.put_scalar("total_loss", 2.0)
        storage.put_scalar("bbox/AP", 40.0, smoothing_hint=False, cur_iter=0)
        writer.write()
        writer.write()
        storage.step()
        storage.put_scalar("bbox/AP", 50.0, smoothing_hint=False)
        writer.write()
        writer.close()


WRITTEN = [(0, {"bbox/AP": 40.0}), (1, {"total_loss": 2.5}), (2, {"bbox/AP": 50.0}), "finish"]


def test_wandb_gets_every_scalar_once_and_goes_on_when_resumed(wandb, tmp_path):
    folder = tmp_path / "birds"
    folder.mkdir()
    (writer,) = build_loggers(config(folder, "tensorboard", "wandb"))
    write_three_times(writer)
    (_, options), *written = wandb
    assert (options["name"], options["id"], options["project"]) == ("birds", None, "co-detr")
    assert options["config"]["optimizer.lr"] == 0.1 and options["config"]["train.max_iter"] == 9
    assert written == WRITTEN

    wandb.clear()
    build_loggers(config(folder, "wandb"))
    assert wandb[0][1]["id"] == "run7"


def test_mlflow_gets_every_scalar_once_and_goes_on_when_resumed(mlflow, tmp_path):
    (writer,) = build_loggers(config(tmp_path, "mlflow"))
    write_three_times(writer)
    start, (_, parameters), *written = mlflow
    assert start == ("start_run", {"run_id": None, "run_name": tmp_path.name})
    assert parameters["optimizer.lr"] == 0.1
    assert written == WRITTEN

    mlflow.clear()
    build_loggers(config(tmp_path, "mlflow"))  # a parameter is set once
    assert mlflow == [("start_run", {"run_id": "run7", "run_name": None})]


def test_tensorboard_is_always_there(tmp_path):
    assert names_of(OmegaConf.create({"train": {}})) == ["tensorboard"]
    assert build_loggers(config(tmp_path)) == []


@pytest.mark.parametrize(
    "name, error, message",
    [
        ("wandb", ImportError, "asks for wandb, which is not installed: pip install wandb"),
        ("comet", ValueError, "'comet', but there are tensorboard, wandb, mlflow"),
    ],
)
def test_what_is_not_there_is_said_before_the_training(monkeypatch, tmp_path, name, error, message):
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda n, *a: None if n == "wandb" else found(n, *a)
    )
    with pytest.raises(error, match=message):
        names_of(config(tmp_path, name))
