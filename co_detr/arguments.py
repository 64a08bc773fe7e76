"""Command lines of the tools: options, and changes of the config as key=value among them.

Nothing heavy is imported before a command line has been parsed, so that `--help` answers at once.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

logger = logging.getLogger(__name__)

# "optimizer.lr=", "+train.note=", but no "--option=" and no "folder/a=b.jpg"
_OVERRIDE = re.compile(r"\+{0,2}[^\W\d][\w.\-\[\]]*=")


def parse_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse a command line that may hold key=value anywhere between its options.

    That is, also behind an option that takes any number of words, which would swallow them. A word
    that is the name of a file, or the value of an option that takes one, is no override.

    Args:
        parser: of the tool. Positional arguments called "opts" get what is left, and must stay
            empty.
        argv: the words; None for those of this process.

    Returns:
        What the parser returns, with the overrides as the list `opts`; `config_file`, where there
        is one, is the path of the file.
    """
    parser.epilog = parser.epilog or "key=value changes the config, e.g. optimizer.lr=1e-4"
    words = list(sys.argv[1:] if argv is None else argv)
    overrides, others = split_overrides(words, parser)
    args = parser.parse_args(others)
    if stray := getattr(args, "opts", None):
        parser.error(
            f"{stray[0]!r} is neither an option nor a change of the config (key=value, such as "
            "optimizer.lr=1e-4)"
        )
    args.opts = overrides
    if getattr(args, "config_file", None):
        try:
            args.config_file = config_path(args.config_file)
        except FileNotFoundError as error:
            parser.error(str(error))
    return args


def split_overrides(
    words: Sequence[str], parser: argparse.ArgumentParser
) -> tuple[list[str], list[str]]:
    """Divide the words of a command line into overrides and all others, both in their order."""
    takes_one = {
        name
        for action in _actions(parser)
        for name in action.option_strings
        if action.nargs is None or action.nargs == 1
    }
    overrides: list[str] = []
    others: list[str] = []
    before = ""
    for position, word in enumerate(words):
        if word == "--":
            return overrides, [*others, *words[position:]]
        mine = _OVERRIDE.match(word) and before not in takes_one and not os.path.exists(word)
        (overrides if mine else others).append(word)
        before = word
    return overrides, others


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """What a parser and those of its subcommands take."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for subcommand in action.choices.values():
                yield from _actions(subcommand)


def config_path(name: str) -> str:
    """The file of a config, given as a path or as a name of the model zoo.

    Args:
        name: such as "~/birds.py", "co_dino/co_dino_digits" or "configs/co_dino/co_dino_digits.py";
            the last one also where there is no folder `configs`. Or a short name, see
            `model_zoo.find_config`.

    Raises:
        FileNotFoundError: it is neither; the message lists similar names.
    """
    path = os.path.expanduser(name)
    if os.path.isfile(path):
        return path
    from co_detr import model_zoo

    try:
        return model_zoo.get_config_file(name.removeprefix("configs/"))
    except FileNotFoundError:
        try:
            return model_zoo.get_config_file(model_zoo.find_config(name))
        except ValueError as error:
            raise FileNotFoundError(f"{name} is no file, and {error}") from None


def load_config(config_file: str, overrides: Sequence[str] = ()) -> "tuple[DictConfig, list[str]]":
    """A config with changes.

    Args:
        config_file: as for `config_path`.
        overrides: as for `overrides.apply_overrides`.

    Returns:
        The config, `~` replaced by the home folder in all of it, and warnings to be logged.

    Raises:
        ValueError: what is ours in it gets an argument that it has not, or of a wrong value.
    """
    from detectron2.config import LazyConfig

    from co_detr.engine.argument_checks import check_arguments
    from co_detr.engine.overrides import apply_overrides
    from co_detr.paths import expand_home

    cfg = LazyConfig.load(config_path(config_file))
    warnings = apply_overrides(cfg, overrides)
    expand_home(cfg)
    check_arguments(cfg)
    return cfg, warnings


def tool_config(args: argparse.Namespace) -> "DictConfig":
    """The config of a command line that `parse_arguments` read; warnings are logged."""
    cfg, warnings = load_config(args.config_file, args.opts)
    for warning in warnings:
        logger.warning(warning)
    return cfg


def user_path(text: str) -> Path:
    """For `add_argument(type=...)`: a path in which `~` stands for the home folder."""
    return Path(text).expanduser()


def at_least_one(text: str) -> int:
    """For `add_argument(type=...)`: a positive number."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number
