#!/usr/bin/env python
"""Put together the README's picture from pictures that `co-detr predict` has drawn.

    python tools/draw_readme.py docs/images/detections.jpg          # those of the demos
    python tools/draw_readme.py out.jpg --trees drawn/photo.png --digits drawn/0*.png

A square from the middle of the photo of trees, and digits in rows of two beside it.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

TREES = Path("output/demo-trees/pictures/2019_YELL_2_541000_4977000_image_crop.png")
DIGITS = [Path(f"output/demo/pictures/00000{i}.png") for i in range(1, 7)]
COLUMNS = 2  # of digits
HEIGHT = 660  # pixels of the result
GAP = 4


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", help="a JPEG or PNG")
    parser.add_argument("--trees", type=Path, default=TREES, metavar="FILE")
    parser.add_argument("--digits", type=Path, nargs="+", default=DIGITS, metavar="FILE")
    args = parser.parse_args(argv)
    compose(args.trees, args.digits).save(args.output, quality=85)
    return 0


def compose(trees: Path, digits: list[Path]) -> Image.Image:
    """The square of trees at the left, at its own scale; digits at the right, row by row."""
    rows = -(-len(digits) // COLUMNS)
    side = (HEIGHT - (rows - 1) * GAP) // rows
    page = Image.new("RGB", (HEIGHT + COLUMNS * (GAP + side), HEIGHT), "white")
    with Image.open(trees) as photo:
        left, top = (photo.width - HEIGHT) // 2, (photo.height - HEIGHT) // 2
        page.paste(photo.crop((left, top, left + HEIGHT, top + HEIGHT)))
    for index, path in enumerate(digits):
        row, column = divmod(index, COLUMNS)
        with Image.open(path) as picture:
            small = picture.convert("RGB").resize((side, side), Image.LANCZOS)
        page.paste(small, (HEIGHT + GAP + column * (side + GAP), row * (side + GAP)))
    return page


if __name__ == "__main__":
    sys.exit(main())
