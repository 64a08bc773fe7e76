"""List the models of the zoo.

    co-detr zoo
    co-detr zoo swin large coco         # those that have all of these words

AP is what the paper or the authors' release publishes for them on COCO or LVIS, not measured here.
Weights are the names of released files, which `co-detr convert` makes ours. Configs by a short name
(`co_dino_r50`) are the most common ones of their kind.
"""

import argparse
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="TEXT", help="show only models that have it")


def run(args: argparse.Namespace) -> int:
    print(table(args.words))
    return 0


def table(words: Sequence[str] = ()) -> str:
    """The models that have all the words in their row, whatever the case.

    Raises:
        ValueError: none has.
    """
    from tabulate import tabulate

    from co_detr.model_facts import MODELS, SHORT_NAMES

    short = {name: text for text, name in SHORT_NAMES.items()}
    rows = [
        [name, short.get(name, ""), *("" if value is None else value for value in facts)]
        for name, facts in MODELS.items()
    ]
    rows = [row for row in rows if all(w.lower() in " ".join(map(str, row)).lower() for w in words)]
    if not rows:
        raise ValueError(
            f"no model has {' and '.join(map(repr, words))}: `co-detr zoo` lists all of them"
        )
    headers = ["config", "short name", "backbone", "data", "epochs", "queries", "AP", "weights"]
    return tabulate(rows, headers)
