"""The command line: finds the command, parses its words, and says in one line what went wrong."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from co_detr import __version__
from co_detr.arguments import parse_arguments

from .commands import COMMANDS
from .errors import one_line

DESCRIPTION = "Co-DETR: train, evaluate and use detectors on pictures of your own."
EPILOG = """\
From data to a detector:
  co-detr new birds.py --data birds/ --model co_dino_r50
  co-detr train birds.py
  co-detr evaluate birds.py output/birds/model_best.pth
  co-detr predict output/birds/model_best.pth photo.jpg
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; what went wrong is one line on stderr, unless `--debug` asks for all of it.

    Args:
        argv: the words; None for those of this process.

    Returns:
        The exit code: 0; 1 if the command failed or found faults; 130 after Ctrl-C. A command line
        that has no meaning ends with `SystemExit(2)`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args, command = parse(words)
    try:
        return command.run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `co-detr zoo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            raise
        print(f"co-detr {args.command}: error: {one_line(error)}", file=sys.stderr)
        return 1


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, Any]:
    """The arguments of a command line, and the module of its command."""
    named = next((word for word in words if not word.startswith("-")), None)
    parser = _Parser(
        prog="co-detr",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"co-detr {__version__}")
    parsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    module = None
    for name, command in COMMANDS.items():
        child = parsers.add_parser(
            name, help=command.help, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == named:
            module = import_module(command.module)
            child.description = module.__doc__
            module.add_arguments(child)
            child.add_argument("--debug", action="store_true", help="show tracebacks of errors")
            child.epilog = EPILOG_OF_OVERRIDES if command.overrides else None
    args = parse_arguments(parser, words)
    if args.opts and not COMMANDS[args.command].overrides:
        parser.error(f"`{args.command}` changes no config: {args.opts[0]!r} has no place here")
    return args, module


EPILOG_OF_OVERRIDES = "key=value changes the config, e.g. optimizer.lr=1e-4"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, and where help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}. See {self.prog} --help\n")
