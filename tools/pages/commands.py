"""Shell commands of pages, read by the parsers that will read them."""

import argparse
import contextlib
import inspect
import io
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from .blocks import ROOT, Block

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Commands of others, of which only the name is looked at.
OTHERS = {"apt-get", "cd", "export", "git", "ls", "mkdir", "open", "pip", "sbatch", "trtexec"}
_LAUNCHERS = {"srun", "torchrun"}
_SETTING = re.compile(r"[A-Za-z_]\w*=")
_PLACEHOLDER = re.compile(r"[<>]|\.\.\.")  # such as configs/<...>.py


class Parsed(Exception):
    """A command line has been parsed.

    Attributes:
        namespace: what it says.
        overrides: its changes of the config.
    """

    def __init__(self, namespace: argparse.Namespace, overrides: list[str]):
        super().__init__()
        self.namespace, self.overrides = namespace, overrides


def commands_of(block: Block) -> list[list[str]]:
    """The words of each command of a shell block, without settings of the environment."""
    commands = []
    for line in block.shell_text().replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("&|;"):
                command.append(word)
                continue
            while command and _SETTING.match(command[0]):
                command = command[1:]
            if command:
                commands.append(command)
            command = []
    return commands


def problem_of(words: Sequence[str], written: set[str]) -> str | None:
    """Why a command would not be understood, if so.

    Args:
        words: of the command.
        written: configs that a page writes, or has written by `co-detr new`.
    """
    if words[0] in _LAUNCHERS:
        starts = [i for i, word in enumerate(words) if word in ("python", "co-detr") or _tool(word)]
        if not starts:
            return f"{words[0]} starts nothing of ours"
        words = words[starts[0] :]
    if _tool(words[0]):
        words = ["python", *words]
    if words[0] in OTHERS:
        return None
    if words[0] == "make":
        return _problem_of_make(words[1:])
    if words[0] == "co-detr":
        return _problem_of_arguments(words[1:], "module", "co_detr", written)
    if words[0] != "python":
        return f"{words[0]} is no command that is known here"
    if words[1] == "-c":
        return _problem_of_code(words[2])
    if words[1] == "-m":
        return _problem_of_arguments(words[3:], "module", words[2], written)
    if not (ROOT / words[1]).is_file():
        return f"there is no {words[1]}"
    return _problem_of_arguments(words[2:], "file", str(ROOT / words[1]), written)


def _tool(word: str) -> bool:
    return word.startswith("tools/") and word.endswith(".py")


def _problem_of_make(words: Sequence[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [word for word in words if "=" not in word and word != "..."]
    missing = [word for word in targets if not re.search(rf"(?m)^{word}:", makefile)]
    return f"make has no {', '.join(missing)}" if missing else None


def _problem_of_code(code: str) -> str | None:
    try:
        compile(code, "command", "exec")
    except SyntaxError as error:
        return str(error)
    return None


def _problem_of_arguments(
    words: Sequence[str], kind: str, program: str, written: set[str]
) -> str | None:
    try:
        _parse(words, kind, program)
    except Parsed as parsed:
        return _problem_of_config(parsed, written)
    except _Refused as refused:
        return str(refused)
    return f"{program} parses no command line"


class _Refused(Exception):
    pass


def _parse(words: Sequence[str], kind: str, program: str) -> None:
    """Start a program, which ends by `Parsed` or `_Refused` as soon as it has read its words."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        from co_detr.arguments import split_overrides

        overrides, _ = split_overrides(words, self)
        raise Parsed(parse_args(self, args, namespace), overrides)

    said = io.StringIO()
    run = runpy.run_module if kind == "module" else runpy.run_path
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop),
        mock.patch.object(sys, "argv", [program, *words]),
        mock.patch.object(sys, "path", [str(Path(program).parent), *sys.path]),
        contextlib.redirect_stderr(said),
    ):
        try:
            run(program, run_name="__main__")
        except SystemExit:
            raise _Refused(said.getvalue().strip()) from None


def _problem_of_config(parsed: Parsed, written: set[str]) -> str | None:
    """Whether the configs of a command exist, and have what it changes."""
    from co_detr.arguments import config_path, load_config
    from co_detr.cli.commands import COMMANDS

    args = parsed.namespace
    named = [getattr(args, name, None) for name in ("config_file", "model")]
    configs = [name for name in named if isinstance(name, str) and not _PLACEHOLDER.search(name)]
    ours = []
    for name in configs:
        if Path(name).name in written:
            continue
        try:
            ours.append(config_path(name))
        except FileNotFoundError as error:
            return str(error)
    if stray := [word for word in getattr(args, "opts", None) or () if "=" not in word]:
        return f"{stray[0]} is neither an option nor key=value"
    if not parsed.overrides:
        return None
    command = COMMANDS.get(getattr(args, "command", None))
    if command is not None and not command.overrides:
        return f"{parsed.overrides[0]}: this command changes no config"
    cfg, _ = load_config(ours[0] if ours else "co_dino/co_dino_digits")
    missing = [word for word in parsed.overrides if not has_key(cfg, word.partition("=")[0])]
    return f"the config has no {', '.join(missing)}" if missing else None


def has_key(cfg: "DictConfig", key: str) -> bool:
    """Whether a config has a key, or calls what takes an argument of that name."""
    from omegaconf import DictConfig, OmegaConf

    node = cfg
    for part in key.strip("+").split("."):
        if not isinstance(node, DictConfig):
            return False
        if part not in node:
            return "_target_" in node and part in _Arguments(node._target_)
        node = OmegaConf.select(node, part, throw_on_resolution_failure=False)
    return True


class _Arguments:
    """Names of the arguments that a class or function takes, those of base classes included."""

    def __init__(self, target: str | Callable):
        from detectron2.utils.registry import locate

        target = locate(target) if isinstance(target, str) else target
        functions = [c.__init__ for c in target.__mro__] if inspect.isclass(target) else [target]
        parameters = [p for f in functions for p in inspect.signature(f).parameters.values()]
        self.names = {parameter.name for parameter in parameters}
        self.any = not inspect.isclass(target) and any(
            parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters
        )

    def __contains__(self, name: str) -> bool:
        return self.any or name in self.names


def configs_written(blocks: Sequence[Block]) -> set[str]:
    """Names of the configs that pages write: titles of blocks, and what `co-detr new` is given."""
    return {Path(block.title).name for block in blocks if block.title} | set(_new(blocks))


def _new(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        if block.is_shell:
            for words in commands_of(block):
                if list(words[:2]) == ["co-detr", "new"]:
                    yield Path(words[2]).name
