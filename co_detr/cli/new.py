"""Look at a data set and write a config that trains a model on it.

    co-detr new birds.py --data birds/ --model co_dino_r50
    co-detr new birds.py --data birds/data.yaml --model co_dino_swin_large --epochs 24

Read are COCO files, YOLO folders (data.yaml, or classes.txt), Pascal VOC, CVAT's and Label Studio's
exports. What is not in COCO format is written once in it, into a folder beside the config; pictures
stay where they are. Without pictures to validate on, a part of the others becomes that, chosen by
file name. `co-detr zoo` lists the models; co_dino_digits is small enough for a try on the CPU.

The exit code is 1 if the data have a fault that training will stop at or leave out.
"""

import argparse
import tempfile
from pathlib import Path

from co_detr.arguments import at_least_one, user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=config_file, metavar="CONFIG", help="to write, a .py file")
    parser.add_argument("--data", type=user_path, required=True, help="a folder, or its file")
    parser.add_argument("--model", default="co_dino_r50", help="a name of the zoo; %(default)s")
    parser.add_argument("--epochs", type=at_least_one, metavar="N", help="passes over the pictures")
    parser.add_argument(
        "--weights", type=user_path, metavar="FILE", help="a checkpoint to start from"
    )
    parser.add_argument(
        "--val-share",
        type=share,
        default=0.2,
        metavar="SHARE",
        help="of the pictures, to validate on where the data have none for that; %(default)s",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier config")
    parser.add_argument("--quick", action="store_true", help="open pictures without decoding them")


def config_file(text: str) -> Path:
    """For `add_argument(type=...)`: a Python file whose name can be that of a data set."""
    path = user_path(text)
    if path.suffix != ".py":
        raise argparse.ArgumentTypeError(f"{text} must end in .py")
    return path


def share(text: str) -> float:
    """For `add_argument(type=...)`: a share, between 0 and 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def run(args: argparse.Namespace) -> int:
    from co_detr import model_zoo

    if args.config.exists() and not args.overwrite:
        raise FileExistsError(f"there is a {args.config} already: --overwrite replaces it")
    model = model_zoo.find_config(args.model)
    if args.weights is not None and not args.weights.is_file():
        raise FileNotFoundError(f"there are no weights {args.weights}")

    from co_detr.data.formats import read_data
    from co_detr.data.formats.writing import same_classes, write_splits
    from co_detr.data.survey import survey
    from co_detr.data.survey.text import as_text
    from co_detr.recipes.choice import recipe_for, train_and_val
    from co_detr.recipes.template import config_text

    kind, splits = read_data(args.data)
    splits, said = train_and_val(same_classes(splits), args.val_share)
    folder = args.config.parent / f"{args.config.stem}_data"
    with tempfile.TemporaryDirectory() as scratch:  # nothing is left where something is refused
        found = survey(kind, write_splits(splits, Path(scratch)), args.quick)
    recipe = recipe_for(args.config, model, found, args.epochs, args.weights)
    written = write_splits(splits, folder, overwrite=args.overwrite)
    for surveyed, each in zip(found.splits, written):
        surveyed.json_file = each.json_file
    print(as_text(found))
    for text in said:
        print(f"note: {text}")
    args.config.parent.mkdir(parents=True, exist_ok=True)
    args.config.write_text(config_text(recipe), encoding="utf-8")
    print(
        f"\nWrote {args.config}: {recipe.model}, {recipe.plan.epochs} epochs of "
        f"{recipe.plan.iterations_per_epoch} iterations of {recipe.plan.batch_size} on "
        f"{recipe.machine}."
    )
    if any(not each.split.is_coco for each in written):
        print(f"Annotations in COCO format: {folder}/")
    if found.faults:
        print("There are faults in the data, see above.")
        return 1
    print(f"Next: co-detr train {args.config}")
    return 0
