"""Say what a data set holds and what is wrong with it.

    co-detr check birds/ --page birds.html      # with sample pictures and their boxes
    co-detr check birds.py                      # the data of a config

The exit code is 1 if something is broken: missing or unreadable pictures, sizes other than
annotated, annotations without a meaning, splits whose classes differ.
"""

import argparse
import tempfile
from pathlib import Path

from co_detr.arguments import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=user_path, metavar="DATA", help="a folder, its file, a config")
    parser.add_argument("--page", type=user_path, metavar="FILE", help="write an HTML page, too")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier page")
    parser.add_argument("--quick", action="store_true", help="open pictures without decoding them")


def run(args: argparse.Namespace) -> int:
    if args.page is not None and args.page.exists() and not args.overwrite:
        raise FileExistsError(f"there is a {args.page} already: --overwrite replaces it")
    import co_detr.data.survey as surveys
    from co_detr.data.formats import read_data
    from co_detr.data.formats.registered import splits_of_config
    from co_detr.data.formats.writing import write_splits
    from co_detr.data.survey.text import as_text

    if args.data.suffix == ".py":
        kind, splits = splits_of_config(args.data)
    else:
        kind, splits = read_data(args.data)
    with tempfile.TemporaryDirectory() as folder:
        found = surveys.survey(kind, write_splits(splits, Path(folder)), args.quick)
    print(as_text(found))
    if args.page is not None:
        from co_detr.data.survey.page import as_page

        args.page.parent.mkdir(parents=True, exist_ok=True)
        args.page.write_text(as_page(found, str(args.data)), encoding="utf-8")
        print(f"\nPictures with their boxes: {args.page}")
    return 1 if found.faults else 0
