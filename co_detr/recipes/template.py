"""The text of a config for data of one's own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog

from co_detr.data.survey import SurveyedSplit

from .plan import Machine, Plan

WIDTH = 100  # of a line


@dataclass(frozen=True)
class Recipe:
    """What a config says.

    Args:
        file: of the config.
        model: its name in the zoo.
        splits: "train", "val" and perhaps "test".
        classes: names, in the order of labels.
        plan: length and batch.
        machine: that the plan is for.
        weights: a checkpoint to start from, or None.
        release: the name of the authors' weights for the model, or None.
        longest_side: pixels that pictures are scaled to for a model that takes them as they are;
            None to leave them alone.
    """

    file: Path
    model: str
    splits: Sequence[SurveyedSplit]
    classes: Sequence[str]
    plan: Plan
    machine: Machine
    weights: str | None = None
    release: str | None = None
    longest_side: int | None = None


def config_text(recipe: Recipe) -> str:
    """The config, formatted as black would."""
    plan, name, file_name = recipe.plan, _inside(recipe.file.stem), _inside(recipe.file.name)
    numbers = ", ".join(f"{s.name} {len(s.records)}" for s in recipe.splits)
    parts = [
        f'"""{_number(len(recipe.classes), "class", "classes")} of {name}; pictures: {numbers}.\n',
        "Everything below can be changed, here or on the command line (optimizer.lr=1e-4):\n",
        f"    co-detr train {file_name}",
        f"    co-detr evaluate {file_name} output/{name}/model_best.pth",
        '"""\n',
        "from pathlib import Path\n",
        *_imports(recipe),
        "# Model and training as on COCO, but for what follows; `co-detr zoo` lists other models.",
        _call(
            "dataloader, lr_multiplier, model, optimizer, train = get_sections",
            _string(recipe.model),
        ),
        "",
        "# The data: annotations in COCO format, and the folder that names of pictures begin in.",
        "HERE = Path(__file__).parent",
        *(_register(recipe, split) for split in recipe.splits),
        *_datasets(recipe),
        f"model.num_classes = {len(recipe.classes)}\n",
        *_scaling(recipe),
        f"# Length and batch, chosen for {recipe.machine}. The learning rate is scaled from the",
        "# batch that it is meant for. Where memory does not suffice: a smaller batch, or",
        "# train.accumulate = 2.",
        f"dataloader.train.total_batch_size = {plan.batch_size}",
        f"train.reference_batch_size = {plan.reference_batch_size}",
        f"EPOCH = {plan.iterations_per_epoch}  # iterations",
        f"train.max_iter = {_times(plan.epochs)}",
        f"train.eval_period = train.checkpointer.period = {_times(plan.epochs_per_evaluation)}",
        "train.log_period = 20",
        *(
            ["# train.amp.enabled = True  # faster on GPUs since 2020"]
            * bool(recipe.machine.num_gpus)
        ),
        "",
        *_weights(recipe),
        f"train.output_dir = {_string(f'output/{recipe.file.stem}')}",
    ]
    return "\n".join(parts) + "\n"


def _string(text: str) -> str:
    """A text as Python: names of files may hold quotes, backslashes and bytes that are no text."""
    literal = json.dumps(text, ensure_ascii=False)  # whose escapes mean the same in Python
    return literal.encode("utf-8", "backslashreplace").decode("utf-8")


def _inside(text: str) -> str:
    """A text as a part of a string in Python."""
    return _string(text)[1:-1]


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _imports(recipe: Recipe) -> list[str]:
    lines = [
        "from co_detr.data import register_split",
        "from co_detr.model_zoo import get_sections\n",
    ]
    if recipe.longest_side:
        lines.insert(0, "from detectron2.config import LazyCall as L\n")
        lines[1] = "from co_detr.data import ResizeShortestEdge, register_split"
    return lines


def _register(recipe: Recipe, split: SurveyedSplit) -> str:
    json_file, root = (_place(recipe.file, path) for path in (split.json_file, split.image_root))
    return _call("register_split", _string(dataset_name(recipe, split.name)), json_file, root)


def _call(function: str, *arguments: str) -> str:
    """A call, on as many lines as it needs."""
    inside = ", ".join(arguments)
    lines = [f"{function}({inside})"]
    if len(lines[0]) > WIDTH:
        lines = [f"{function}(", f"    {inside}", ")"]
    if len(lines) > 1 and len(lines[1]) > WIDTH:
        lines[1:2] = [f"    {argument}," for argument in arguments]
    return "\n".join(lines)


def _times(epochs: int) -> str:
    return "EPOCH" if epochs == 1 else f"{epochs} * EPOCH"


def _place(config: Path, path: Path) -> str:
    """A path as Python: from the config on where it lies below its folder, else as a whole."""
    folder, path = config.resolve().parent, path.resolve()
    if path == folder:
        return "HERE"
    if path.is_relative_to(folder):
        return f"HERE / {_string(path.relative_to(folder).as_posix())}"
    return _string(path.as_posix())


def dataset_name(recipe: Recipe, split: str) -> str:
    """The name that a split is registered by: after the config, unless that is a built-in one."""
    name = f"{recipe.file.stem}_{split}"
    return f"my_{name}" if name in DatasetCatalog.list() else name


def _datasets(recipe: Recipe) -> list[str]:
    names = {split.name for split in recipe.splits}
    lines = [f"dataloader.train.dataset.names = {_string(dataset_name(recipe, 'train'))}"]
    lines.append(f"dataloader.test.dataset.names = {_string(dataset_name(recipe, 'val'))}")
    if "test" in names:
        lines[-1] += f"  # at last: {_string(dataset_name(recipe, 'test'))}"
    return lines


def _scaling(recipe: Recipe) -> list[str]:
    if not recipe.longest_side:
        return []
    side = recipe.longest_side
    return [
        f"# This model is for small pictures: the longer side is scaled to {side} pixels.",
        f"_scale = L(ResizeShortestEdge)(short_edge_length={side}, max_size={side})",
        "dataloader.train.mapper.augmentations = [_scale]",
        "dataloader.test.mapper.augmentations = [_scale]\n",
    ]


def _weights(recipe: Recipe) -> list[str]:
    if recipe.weights:
        return [
            "# Where to start: what fits is taken, rows of classes of the same name, too.",
            f"train.init_checkpoint = {_string(recipe.weights)}",
        ]
    lines = ["# Starts from ImageNet weights of the backbone, which are fetched."]
    if recipe.release is None:
        lines = ["# Starts from nothing: name a checkpoint where you have one."]
    else:
        lines += [
            f"# Better from COCO: fetch the authors' {recipe.release}.pth,",
            "# `co-detr convert` it, and name the result here.",
        ]
    return [*lines, '# train.init_checkpoint = "weights.safetensors"']
