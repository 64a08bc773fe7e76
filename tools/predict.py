#!/usr/bin/env python
"""Detects objects in pictures, draws them, and writes them as COCO-style annotations.

    python tools/predict.py --config-file configs/co_deformable_detr/<...>.py \\
        --input photo.jpg folder/ "shots/*.png" --output out/ train.init_checkpoint=weights.pth

Into the output folder go one picture per picture and `predictions.json`, which pycocotools and
labelling tools read: `images`, `categories` and `annotations`, each with a `score`. Pictures that
cannot be read are counted and left out.
"""

import co_detr  # noqa: F401  makes `detectron2` importable

# isort: split
import argparse
import glob
import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from PIL import Image
from tqdm import tqdm

from co_detr.checkpoint.loading import load_for_inference
from co_detr.checkpoint.reading import read_checkpoint
from co_detr.config import to_cfg_node
from co_detr.engine.arguments import parse_arguments, tool_config, user_path
from co_detr.engine.build import without_pretrained

logger = logging.getLogger("co_detr.predict")

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
# Smaller pictures are enlarged before drawing, since labels would not be legible on them: to this
# shorter side, unless the longer one gets too long.
MIN_DRAWN_SIDE, MAX_DRAWN_SIDE = 384, 2048


def find_images(inputs: list[str]) -> list[Path]:
    """The picture files that files, folders and glob patterns stand for, each once.

    Raises FileNotFoundError if one of them stands for nothing.
    """
    found: dict[Path, None] = {}
    for name in inputs:
        path = Path(os.path.expanduser(name))
        if path.is_dir():
            paths = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            nothing = f"no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}) in the folder {name}"
        elif path.is_file():
            paths, nothing = [path], ""
        else:
            paths = [
                Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()
            ]
            nothing = f"no file, folder or pattern with matches: {name}"
        if not paths:
            raise FileNotFoundError(nothing)
        found.update(dict.fromkeys(paths))
    return list(found)


def build_predictor(cfg: DictConfig, config_file: str | None = None) -> DefaultPredictor:
    """The model of a config with its weights, for single pictures.

    `config_file` is for messages. Raises ValueError if the config names no weights, or these are
    not the model's.
    """
    if not cfg.train.init_checkpoint:
        raise ValueError(
            "there are no weights to predict with: add train.init_checkpoint=/path/to/model.pth"
        )
    device = cfg.train.device
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        logger.warning("no CUDA device: predicting on the CPU")
        device = "cpu"
    weights = read_checkpoint(cfg.train.init_checkpoint)
    cfg.model = without_pretrained(cfg.model)
    cfg.train.init_checkpoint = ""  # loaded below, so that it may be .safetensors
    predictor = DefaultPredictor(to_cfg_node(cfg, device=device))
    load_for_inference(predictor.model, weights, config_file)
    return predictor


def load_categories(cfg: DictConfig) -> list[dict]:
    """Ids and names of the classes 0, 1, ... of the dataset that the config is evaluated on.

    A dataset of one's own gets its names from its annotation file; where that is missing, too, or
    where the model has another number of classes, they are numbered.
    """
    names = cfg.dataloader.test.dataset.names
    name = names if isinstance(names, str) else names[0]
    categories = dataset_categories(name)
    count = cfg.model.get("num_classes", len(categories))
    if len(categories) == count:
        return categories
    found = f"{name} has {len(categories)}" if categories else f"those of {name} are not known"
    logger.warning(
        f"the {count} classes of the model are numbered, as {found}: for names, set "
        "dataloader.test.dataset.names to the dataset it was trained for"
    )
    return [{"id": i, "name": f"class {i}"} for i in range(count)]


def dataset_categories(name: str) -> list[dict]:
    """Ids and names of the classes of a registered dataset; none if they are not known."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is not None:
        ids = metadata.get("thing_dataset_id_to_contiguous_id")
        ids = sorted(ids, key=ids.get) if ids else range(len(metadata.thing_classes))
        return [{"id": i, "name": name} for i, name in zip(ids, metadata.thing_classes)]
    json_file = metadata.get("json_file")
    if json_file is None or not os.path.isfile(json_file):
        return []
    with open(json_file) as file:
        categories = json.load(file)["categories"]
    return [
        {"id": category["id"], "name": category["name"]}
        for category in sorted(categories, key=lambda category: category["id"])
    ]


def draw(image: np.ndarray, instances: Instances, names: list[str]) -> np.ndarray:
    """The picture (H, W, 3) uint8 RGB with boxes, labels, scores and, where there are any, masks;
    small pictures enlarged."""
    try:
        import supervision
    except ImportError as error:
        raise ImportError("drawing needs supervision: pip install supervision") from error
    height, width = image.shape[:2]
    wanted = -(-MIN_DRAWN_SIDE // min(height, width))
    factor = max(1, min(wanted, MAX_DRAWN_SIDE // max(height, width)))
    height, width = height * factor, width * factor
    canvas = np.asarray(Image.fromarray(image).resize((width, height), Image.BICUBIC))
    masks = None
    if instances.has("pred_masks"):
        masks = instances.pred_masks.numpy().repeat(factor, axis=1).repeat(factor, axis=2)
    detections = supervision.Detections(
        xyxy=instances.pred_boxes.tensor.numpy() * factor,
        mask=masks,
        confidence=instances.scores.numpy(),
        class_id=instances.pred_classes.numpy(),
    )
    labels = [f"{names[c]} {s:.2f}" for c, s in zip(detections.class_id, detections.confidence)]
    thickness = supervision.calculate_optimal_line_thickness((width, height))
    text_scale = max(supervision.calculate_optimal_text_scale((width, height)), 0.4)
    boxes = supervision.BoxAnnotator(thickness=thickness)
    texts = supervision.LabelAnnotator(
        text_scale=text_scale, text_padding=3, smart_position=True  # labels stay in the picture
    )
    # supervision draws in BGR; annotators want memory of their own
    scene = np.ascontiguousarray(canvas[:, :, ::-1])
    if masks is not None:
        scene = supervision.MaskAnnotator().annotate(scene, detections)
    scene = boxes.annotate(scene, detections)
    return texts.annotate(scene, detections, labels=labels)[:, :, ::-1]


def to_annotations(instances: Instances, image_id: int, categories: list[dict]) -> list[dict]:
    """Detections as COCO annotations (bbox: x, y, width, height in pixels) with a score, and with
    run-length masks where there are any."""
    annotations = []
    for box, score, label in zip(
        instances.pred_boxes.tensor.tolist(),
        instances.scores.tolist(),
        instances.pred_classes.tolist(),
    ):
        width, height = box[2] - box[0], box[3] - box[1]
        annotations.append(
            {
                "image_id": image_id,
                "category_id": categories[label]["id"],
                "bbox": [round(v, 2) for v in (box[0], box[1], width, height)],
                "area": round(width * height, 2),
                "iscrowd": 0,
                "score": round(score, 5),
            }
        )
    if instances.has("pred_masks"):
        for annotation, mask in zip(annotations, instances.pred_masks.numpy()):
            encoded = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotation["area"] = float(mask_util.area(encoded))
            annotation["segmentation"] = encoded | {"counts": encoded["counts"].decode("ascii")}
    return annotations


def output_path(folder: Path, path: Path, taken: set[Path]) -> Path:
    """Where to draw a picture: under its own name, numbered if another folder has one like it."""
    suffix = path.suffix if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
    candidate, number = folder / f"{path.stem}{suffix}", 2
    while candidate in taken:
        candidate, number = folder / f"{path.stem}_{number}{suffix}", number + 1
    taken.add(candidate)
    return candidate


def predict(
    predictor: DefaultPredictor,
    paths: list[Path],
    categories: list[dict],
    output: Path,
    threshold: float,
) -> tuple[int, int]:
    """Predict on picture files and write the results; returns how many were and were not read."""
    output.mkdir(parents=True, exist_ok=True)
    names = [category["name"] for category in categories]
    images: list[dict] = []
    annotations: list[dict] = []
    unreadable = 0
    taken: set[Path] = set()
    for path in tqdm(paths, unit="image"):
        try:
            image = read_image(str(path), format="RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            unreadable += 1
            logger.warning(f"skipped {path}: {error}")
            continue
        instances = predictor(image[:, :, ::-1])["instances"].to("cpu")  # takes BGR
        instances = instances[instances.scores >= threshold]
        drawn = output_path(output, path, taken)
        Image.fromarray(draw(image, instances, names)).save(drawn)
        height, width = image.shape[:2]
        image_id = len(images) + 1
        images.append({"id": image_id, "file_name": str(path), "height": height, "width": width})
        for annotation in to_annotations(instances, image_id, categories):
            annotations.append({"id": len(annotations) + 1, **annotation})
    content = {"images": images, "categories": categories, "annotations": annotations}
    with open(output / "predictions.json", "w") as file:
        json.dump(content, file, indent=1)
    return len(images), unreadable


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="a file, or a name of the model zoo")
    parser.add_argument("--input", nargs="+", required=True, help="pictures, folders, patterns")
    parser.add_argument(
        "--output", type=user_path, default=Path("output/predictions"), help="a folder"
    )
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, help="least score, 0 to 1; %(default)s"
    )
    args = parse_arguments(parser, argv)
    if not 0 <= args.confidence_threshold <= 1:
        parser.error(f"--confidence-threshold {args.confidence_threshold} is not between 0 and 1")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns its exit code, 1 if no picture could be read."""
    args = parse_args(argv)
    setup_logger(name="co_detr")
    setup_logger(name="fvcore")
    # the predictor is built without weights, which follow; fvcore would call that "from scratch"
    logging.getLogger("fvcore.common.checkpoint").addFilter(
        lambda record: "from scratch" not in record.getMessage()
    )
    paths = find_images(args.input)
    cfg = tool_config(args)
    categories = load_categories(cfg)
    predictor = build_predictor(cfg, args.config_file)
    read, unreadable = predict(predictor, paths, categories, args.output, args.confidence_threshold)
    logger.info(f"{read} pictures in {args.output}, {unreadable} could not be read")
    return 0 if read else 1


if __name__ == "__main__":
    sys.exit(main())
