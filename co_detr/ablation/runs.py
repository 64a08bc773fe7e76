"""Trainings and evaluations by their folders: where they are, what they were made with, how far
they have come.

    <output>/<data set>/<config>[__<override>...]/seed<k>/      as the training script leaves it
        run.json                                                what it was made with
        evaluations/<name>/evaluation.json                      other evaluations of its weights
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from co_detr import model_zoo
from co_detr.arguments import load_config
from co_detr.engine.files import whole_file
from co_detr.engine.metrics_file import is_evaluated, read_rows
from co_detr.engine.overrides import parse_value
from co_detr.engine.resuming import traces_of_run

from .tables import DataSet, Evaluation, Model, Table

SETTINGS = "run.json"


class ForeignRunError(ValueError):
    """A folder holds a run that was made with other settings."""


@dataclass(frozen=True)
class Run:
    """A training, the same for every table that needs it.

    Attributes:
        config: name in the model zoo.
        overrides: of the config, later ones win; without folder and seed.
        seed: of the training.
        folder: of its own.
    """

    config: str
    overrides: tuple[str, ...]
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """What messages call it."""
        return "/".join(self.folder.parts[-2:])

    @property
    def weights(self) -> Path:
        return self.folder / "model_final.pth"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @cached_property
    def config_file(self) -> str:
        return model_zoo.get_config_file(self.config)

    @cached_property
    def iterations(self) -> int:
        """Length of the whole training."""
        return _iterations(self.config, self.overrides)

    def settings(self) -> dict[str, Any]:
        """What the training depends on, as plain values."""
        return {"config": self.config, "seed": self.seed, **values_of(self.overrides)}

    def is_started(self) -> bool:
        return any(traces_of_run(str(self.folder)))

    def is_complete(self) -> bool:
        """Whether it is trained and evaluated to the end."""
        return self.weights.is_file() and is_evaluated(self.metrics, self.iterations)

    def iterations_done(self) -> int:
        """How far it has come, by its log."""
        last = max((row["iteration"] for row in read_rows(self.metrics)), default=-1)
        return min(last + 1, self.iterations)

    def evaluation_folder(self, evaluation: Evaluation) -> Path:
        return self.folder / "evaluations" / evaluation.name

    def is_evaluated(self, evaluation: Evaluation) -> bool:
        return (self.evaluation_folder(evaluation) / "evaluation.json").is_file()


def plan(
    table: Table, dataset: DataSet, seeds: int, overrides: Sequence[str], output: Path
) -> dict[Model, list[Run]]:
    """The runs that a table needs: for each model one per seed, 0 to `seeds` - 1.

    Raises:
        FileNotFoundError: a config is missing; names the row.
    """
    runs = {}
    for row in table.rows_on(dataset.name):
        model = row.models[dataset.name]
        try:
            model_zoo.get_config_file(model.config)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"Table {table.number}, row {row.labels}: {error}") from None
        own = (*dataset.shared(model.config), *model.overrides, *overrides)
        folder = output / dataset.name / slug(model)
        runs[model] = [Run(model.config, own, k, folder / f"seed{k}") for k in range(seeds)]
    return runs


def slug(model: Model) -> str:
    """Name of the folder of a model: its config and its own overrides, whatever is evaluated."""
    names = [model.config.split("/")[-1]]
    for override in model.overrides:
        key, _, value = override.partition("=")
        names.append(f"{key.split('.')[-1]}={value}".replace("/", "_"))
    return "__".join(names)


def load(config: str, overrides: Sequence[str]) -> DictConfig:
    """A config of the model zoo with changes."""
    return load_config(model_zoo.get_config_file(config), overrides)[0]


@cache
def _iterations(config: str, overrides: tuple[str, ...]) -> int:
    return load(config, overrides).train.max_iter


def values_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Overrides as {key: value}, of which the last one of a key counts."""
    pairs = (override.partition("=") for override in overrides)
    return {key.strip("+ "): parse_value(text) for key, _, text in pairs}


def check_folder(run: Run) -> None:
    """Refuse a folder whose run was made with other settings.

    The settings are those that `remember` kept. A folder without them, made by the training script
    itself, is judged by the values that its config.yaml has for the overrides.

    Raises:
        ForeignRunError: names what is different.
    """
    if not run.is_started():
        return
    wanted = run.settings()
    if (path := run.folder / SETTINGS).is_file():
        found = json.loads(path.read_text())
    elif (path := run.folder / "config.yaml").is_file():
        found = _values_in(path, run)
    else:
        raise ForeignRunError(
            f"{run.folder} holds a run, but neither {SETTINGS} nor config.yaml tells what it was "
            "made with: move it away, or choose another --output"
        )
    different = [
        f"{key} is {found.get(key)!r} there, {wanted.get(key)!r} here"
        for key in {**wanted, **found}
        if found.get(key) != wanted.get(key)
    ]
    if different:
        raise ForeignRunError(
            f"{run.folder} holds a run made with other settings ({'; '.join(different)}): choose "
            "another --output, or use its settings"
        )


def _values_in(config_yaml: Path, run: Run) -> dict[str, Any]:
    from detectron2.config import LazyConfig

    cfg = LazyConfig.load(str(config_yaml))
    found: dict[str, Any] = {"config": run.config, "seed": cfg.train.seed}
    for key in values_of(run.overrides):
        value = OmegaConf.select(cfg, key)
        found[key] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return found


def remember(run: Run) -> None:
    """Keep the settings of a run in its folder, which is made."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with whole_file(str(run.folder / SETTINGS)) as file:
        json.dump(run.settings(), file, indent=1)
