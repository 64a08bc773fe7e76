#!/usr/bin/env python
"""Makes a video and a large picture of digits, to try tracking and tiles on.

    $DETECTRON2_DATASETS/digits/            (default ./datasets/digits)
      video.mp4                             30 s, 10 frames/s, 128x128: three digits that move, and
                                            others after every 10 s
      large/000001.png                      640x640: the first 25 pictures of the validation set
      annotations/instances_large.json      their boxes

Usage: python datasets/prepare_digits_extras.py [--output FOLDER], after prepare_digits.py.
"""

import argparse
import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image
from prepare_digits import IMAGE_SIZE, SEED, SPLITS, draw_background, load_sources, pick_ink
from prepare_digits import render_digit as render

RATE = 10  # frames per second
SECONDS = 30
SCENE = 10 * RATE  # frames
LANES = 3  # digits of a scene, each with a third of the height to itself
TILES = 5  # per side of the large picture, which has less than 100 digits for COCO to count


def video_frames() -> np.ndarray:
    """(frames, IMAGE_SIZE, IMAGE_SIZE, 3) uint8."""
    scans, _, photos = load_sources()
    val = SPLITS[1]
    rng = np.random.default_rng([SEED, len(SPLITS)])
    frames = []
    for _ in range(SECONDS * RATE // SCENE):
        ground = draw_background(photos[0][:, val.columns], rng)
        movers = [_mover(scans[val.scans], ground, lane, rng) for lane in range(LANES)]
        for time in range(SCENE):
            canvas = ground.copy()
            for alpha, ink, top, speed, start in movers:
                height, width = alpha.shape
                left = _there_and_back(start + speed * time, IMAGE_SIZE - width)
                window = np.s_[top : top + height, left : left + width]
                canvas[window] = canvas[window] * (1 - alpha[..., None]) + ink * alpha[..., None]
            frames.append(np.rint(canvas).astype(np.uint8))
    return np.stack(frames)


def _mover(
    scans: np.ndarray, ground: np.ndarray, lane: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, int, float, float]:
    """Opacity (h, w), colour, top, speed in pixels per frame and start of a digit in its lane."""
    limit = IMAGE_SIZE // LANES
    while True:
        alpha = render(scans[int(rng.integers(len(scans)))], rng)
        if 0.6 * limit < alpha.shape[0] <= limit:
            break
    top = lane * limit + int(rng.integers(0, limit - alpha.shape[0], endpoint=True))
    ink = pick_ink(ground[top : top + alpha.shape[0]], rng)
    return alpha, ink, top, rng.uniform(1.0, 2.5), rng.uniform(0, IMAGE_SIZE)


def _there_and_back(way: float, width: int) -> int:
    """The place in 0..width of what turns around at both ends."""
    way %= 2 * width
    return round(way if way <= width else 2 * width - way)


def write_video(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.height = stream.width = IMAGE_SIZE
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "16"}
        stream.codec_context.time_base = Fraction(1, RATE)
        for index, picture in enumerate(video_frames()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_large_picture(root: Path) -> None:
    """The picture and its annotation file, of the pictures and annotations of digits_val."""
    content = json.loads((root / "annotations" / "instances_val.json").read_text())
    side = TILES * IMAGE_SIZE
    canvas = Image.new("RGB", (side, side))
    corners = {}
    for index, image in enumerate(content["images"][: TILES * TILES]):
        corner = (index % TILES * IMAGE_SIZE, index // TILES * IMAGE_SIZE)
        corners[image["id"]] = corner
        canvas.paste(Image.open(root / "val" / image["file_name"]), corner)
    annotations = []
    for annotation in content["annotations"]:
        if annotation["image_id"] not in corners:
            continue
        left, top = corners[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        fields = {key: annotation[key] for key in ("id", "category_id", "area", "iscrowd")}
        annotations.append(fields | {"image_id": 1, "bbox": [x + left, y + top, width, height]})
    (root / "large").mkdir(exist_ok=True)
    canvas.save(root / "large" / "000001.png")
    content |= {
        "images": [{"id": 1, "file_name": "000001.png", "height": side, "width": side}],
        "annotations": annotations,
    }
    (root / "annotations" / "instances_large.json").write_text(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "digits"
    parser.add_argument("--output", type=Path, default=default)
    args = parser.parse_args()
    if not (args.output / "annotations" / "instances_val.json").exists():
        parser.error(f"no digits in {args.output}: make them with datasets/prepare_digits.py")
    write_video(args.output / "video.mp4")
    write_large_picture(args.output)
    print(f"{args.output}: video.mp4, large/000001.png, annotations/instances_large.json")


if __name__ == "__main__":
    main()
