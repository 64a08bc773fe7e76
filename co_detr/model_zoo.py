"""Configs by name, from the repository as well as from an installed copy.

from co_detr import model_zoo
cfg = model_zoo.get_config("co_deformable_detr/co_deformable_detr_r50_12ep")
"""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from co_detr.model_facts import SHORT_NAMES

if TYPE_CHECKING:  # a command line needs the names alone
    from omegaconf import DictConfig

_PACKAGE = Path(__file__).resolve().parent


def config_root() -> Path:
    """The folder of the configs: the repository's `configs/`, or the installed copy of it."""
    repository = _PACKAGE.parent
    if (repository / "pyproject.toml").is_file() and (repository / "configs").is_dir():
        return repository / "configs"
    return _PACKAGE / "configs"


def list_configs() -> list[str]:
    """Names of all configs that hold a complete recipe, without the `.py`."""
    root = config_root()
    names = (path.relative_to(root).with_suffix("") for path in root.rglob("*.py"))
    return sorted(name.as_posix() for name in names if name.parts[0] != "common")


def get_config_file(name: str) -> str:
    """The path of a config.

    Args:
        name: path below `configs/`, with or without `.py`.

    Raises:
        FileNotFoundError: there is no such config; the message lists those with similar names.
    """
    root = config_root()
    stem = name.removesuffix(".py")
    path = root / f"{stem}.py"
    if path.is_file():
        return str(path)
    known = list_configs()
    by_file_name = {known_name.rsplit("/", 1)[-1]: known_name for known_name in known}
    close = difflib.get_close_matches(stem, known, n=5, cutoff=0.5) or [
        by_file_name[match]
        for match in difflib.get_close_matches(stem.rsplit("/", 1)[-1], by_file_name, n=5)
    ]
    hint = f"Close matches: {', '.join(close)}" if close else f"There are: {', '.join(known)}"
    raise FileNotFoundError(f"no config '{stem}' in {root}. {hint}")


def get_config(name: str) -> "DictConfig":
    """Load a config by name, e.g. "co_deformable_detr/co_deformable_detr_r50_12ep"."""
    from detectron2.config import LazyConfig

    return LazyConfig.load(get_config_file(name))


def get_sections(name: str) -> "tuple[DictConfig, ...]":
    """The sections dataloader, lr_multiplier, model, optimizer and train of a config, for configs
    outside of the repository that change them; those inside import them from their parent."""
    from detectron2.config import LazyConfig

    sections = ("dataloader", "lr_multiplier", "model", "optimizer", "train")
    return LazyConfig.load(get_config_file(name), sections)


def find_config(text: str) -> str:
    """The name of the config that a short name means.

    Args:
        text: a name of `list_configs`, with or without its folder; one of `SHORT_NAMES`, as
            "co_dino_r50"; or a part of one name alone, as "dino_r50_5scale_lsj_36".

    Raises:
        ValueError: it means none or several; the message lists what may be meant.
    """
    known = list_configs()
    wanted = text.removesuffix(".py").removeprefix("configs/")
    if wanted in SHORT_NAMES:
        return SHORT_NAMES[wanted]
    for matches in (
        [name for name in known if wanted in (name, name.rpartition("/")[2])],
        [name for name in known if wanted in name],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise ValueError(f"{text!r} means {len(matches)} models: {', '.join(matches)}")
    stems = {name.rpartition("/")[2]: name for name in known} | SHORT_NAMES
    close = difflib.get_close_matches(wanted.rpartition("/")[2], stems, n=5, cutoff=0.5)
    raise ValueError(
        f"there is no model {text!r}. "
        + (f"Is one of these meant: {', '.join(close)}? " if close else "")
        + "`co-detr zoo` lists all of them"
    )
