"""Detections in the files that labelling tools read, so that people correct instead of draw.

Each format is made of what COCO's has: `images`, `categories` and `annotations` with a `score`.
"""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import pycocotools.mask as mask_util

Files = dict[str, str]
"""Relative path and content."""

CSV_COLUMNS = ("file_name", "class", "score", "x1", "y1", "x2", "y2")


def to_csv(coco: dict) -> Files:
    """A row per detection: picture, class, score and corners in pixels."""
    names = {category["id"]: category["name"] for category in coco["categories"]}
    files = {image["id"]: image["file_name"] for image in coco["images"]}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for annotation in coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        corners = (x, y, round(x + width, 2), round(y + height, 2))
        file_name, name = files[annotation["image_id"]], names[annotation["category_id"]]
        writer.writerow([file_name, name, annotation["score"], *corners])
    return {"predictions.csv": text.getvalue()}


def to_yolo(coco: dict) -> Files:
    """`labels/<picture>.txt` per picture and `data.yaml`; polygons where there are masks.

    Scores are left out: a sixth number in a line is taken for part of a polygon by some tools.

    Raises:
        ImportError: supervision is not installed.
        ValueError: two pictures have one name, as in YOLO the name is all that tells them apart.
    """
    import yaml
    from supervision import Detections
    from supervision.dataset.formats.yolo import detections_to_yolo_annotations

    check_names(Path(image["file_name"]) for image in coco["images"])
    index = {category["id"]: label for label, category in enumerate(coco["categories"])}
    found = _by_picture(coco)
    files: Files = {}
    for image in coco["images"]:
        path = f"labels/{Path(image['file_name']).stem}.txt"
        annotations = found[image["id"]]
        lines = []
        if annotations:
            x, y, width, height = np.array([a["bbox"] for a in annotations]).T
            has_masks = all("segmentation" in a for a in annotations)
            detections = Detections(
                xyxy=np.stack([x, y, x + width, y + height], axis=1),
                class_id=np.array([index[a["category_id"]] for a in annotations]),
                mask=_masks(annotations) if has_masks else None,
            )
            lines = detections_to_yolo_annotations(detections, (image["height"], image["width"]))
        files[path] = "".join(f"{line}\n" for line in lines)
    names = [category["name"] for category in coco["categories"]]
    files["data.yaml"] = yaml.safe_dump({"nc": len(names), "names": names}, allow_unicode=True)
    return files


def check_names(paths: Iterable[Path]) -> None:
    """Raise ValueError where two pictures would have their labels in one file of YOLO's."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(path.stem, path)
        if other != path:
            raise ValueError(
                f"labels/{path.stem}.txt would be that of {other} and of {path}: YOLO tells "
                "pictures apart by name, so predict on each folder by itself"
            )


def _masks(annotations: list[dict]) -> np.ndarray:
    """(n, h, w) bool of run-length masks."""
    return np.stack([mask_util.decode(a["segmentation"]) for a in annotations]).astype(bool)


def to_labelstudio(coco: dict) -> Files:
    """Label Studio's tasks with predictions, and the labelling interface that they belong to.

    Boxes are in percent of the picture. Pictures are named as Label Studio serves local files with
    LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=/.
    """
    names = {category["id"]: category["name"] for category in coco["categories"]}
    found = _by_picture(coco)
    tasks = []
    for image in coco["images"]:
        annotations = found[image["id"]]
        results = [_labelstudio_box(a, image, names[a["category_id"]]) for a in annotations]
        scores = [a["score"] for a in annotations]
        prediction = {"model_version": "co-detr", "result": results}
        if scores:
            prediction["score"] = round(sum(scores) / len(scores), 5)
        path = quote(str(Path(image["file_name"]).absolute()).lstrip("/"))
        tasks.append(
            {"data": {"image": f"/data/local-files/?d={path}"}, "predictions": [prediction]}
        )
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names.values())
    interface = (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{labels}  </RectangleLabels>\n</View>\n'
    )
    return {"labelstudio.json": json.dumps(tasks, indent=1), "labelstudio.xml": interface}


def _labelstudio_box(annotation: dict, image: dict, name: str) -> dict:
    height, width = image["height"], image["width"]
    left, top, box_width, box_height = annotation["bbox"]
    return {
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": annotation["score"],
        "value": {
            "x": 100 * left / width,
            "y": 100 * top / height,
            "width": 100 * box_width / width,
            "height": 100 * box_height / height,
            "rotation": 0,
            "rectanglelabels": [name],
        },
    }


def _by_picture(coco: dict) -> dict[object, list[dict]]:
    found = defaultdict(list)
    for annotation in coco["annotations"]:
        found[annotation["image_id"]].append(annotation)
    return found


FORMATS: dict[str, Callable[[dict], Files]] = {
    "yolo": to_yolo,
    "labelstudio": to_labelstudio,
    "csv": to_csv,
}
"""Beside COCO's own, which `ResultWriter` writes."""
