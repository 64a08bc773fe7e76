"""The command `co-detr`: from a folder of pictures to a detector.

Each command is a module with `add_arguments(parser)` and `run(args) -> exit code`; the table is in
`commands.py`. Only the module of the command that is called is imported, and modules import what is
heavy inside `run`, so that help answers at once.
"""

from co_detr.cli.main import main

__all__ = ["main"]
