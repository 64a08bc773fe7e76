"""The commands of `co-detr`: where each is, and what help says of it."""

from typing import NamedTuple


class Command(NamedTuple):
    """A command.

    Args:
        module: has `add_arguments(parser)` and `run(args) -> int`, the exit code.
        help: one line.
        overrides: whether key=value on the command line changes a config.
    """

    module: str
    help: str
    overrides: bool = False


COMMANDS = {
    "new": Command("co_detr.cli.new", "look at a data set and write a config for it"),
    "check": Command("co_detr.cli.check", "say what a data set holds and what is wrong with it"),
    "train": Command("co_detr.cli.train", "train by a config", overrides=True),
    "evaluate": Command("co_detr.cli.evaluate", "measure the AP of weights", overrides=True),
    "predict": Command("co_detr.inference.command", "detect objects in pictures", overrides=True),
    "web": Command("co_detr.web.command", "try a detector on a page", overrides=True),
    "export": Command(
        "co_detr.export.command", "write a detector as ONNX or for torch.export", overrides=True
    ),
    "convert": Command(
        "co_detr.checkpoint.command", "make weights of other projects ours", overrides=True
    ),
    "report": Command("co_detr.report.command", "show on one page what an evaluation found"),
    "zoo": Command("co_detr.cli.zoo", "list the models"),
}
