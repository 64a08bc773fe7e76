"""A survey as one HTML page, with pictures and their boxes; nothing else belongs to it."""

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from tabulate import tabulate

from co_detr.data.pictures import UnreadablePicture, read_picture
from co_detr.inference.drawing import draw

from .survey import Survey, SurveyedSplit
from .text import class_rows, split_rows

SHOWN = 24  # pictures of a split
WIDTH = 640  # pixels that a picture has at most on the page

STYLE = """
body { font: 15px/1.4 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .15em .8em; border-bottom: 1px solid #ddd; text-align: left }
.fault { color: #b00020 }
figure { display: inline-block; margin: .4em; vertical-align: top }
figure img { max-width: 330px }
figcaption { max-width: 330px; overflow-wrap: anywhere; color: #555; font-size: 12px }
"""


def as_page(found: Survey, title: str) -> str:
    """The page: what the text says, and a sample of each split."""
    names = [split.name for split in found.splits]
    parts = [f"<h1>{escape(title)}</h1><p>{escape(found.kind)}, {len(found.classes)} classes</p>"]
    parts += [f"<p class='fault'>Fault: {escape(text)}</p>" for text in found.faults]
    parts += [f"<p>Warning: {escape(text)}</p>" for text in found.warnings]
    for split in found.splits:
        parts += [f"<p>Note: {split.name}: {escape(text)}</p>" for text in split.notes]
    for rows, corner in ((split_rows(found), ""), (class_rows(found), "objects of")):
        parts.append(tabulate(rows, [corner, *names], tablefmt="html", disable_numparse=True))
    for split in found.splits:
        records = sample(split, SHOWN)
        parts.append(f"<h2>{split.name}: {len(records)} of {len(split.records)} pictures</h2>")
        parts += figures(records, found.classes)
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def sample(split: SurveyedSplit, count: int) -> list[dict]:
    """Records of pictures that can be read: one with each class, rare ones first, then others at
    even distances."""
    unusable = {*split.missing, *split.broken}
    records = [r for r in split.records if r["file_name"] not in unusable]
    labels = [{a["category_id"] for a in record["annotations"]} for record in records]
    frequency = list(split.objects.values())
    chosen: dict[int, None] = {}
    for label in sorted(range(len(frequency)), key=frequency.__getitem__):
        if not any(label in labels[index] for index in chosen):
            chosen.update({i: None for i in [i for i, ls in enumerate(labels) if label in ls][:1]})
    step = max(len(records) // count, 1)
    chosen.update(dict.fromkeys(range(0, len(records), step)))
    return [records[index] for index in sorted(list(chosen)[:count])]


def figures(records: Sequence[dict], classes: Sequence[str]) -> Iterator[str]:
    """A picture with its boxes and its name, each; the reason instead for one that cannot be read,
    which a quick look has not found out."""
    for record in records:
        name = escape(record["file_name"])
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        try:
            pixels = read_picture(record["file_name"])
        except UnreadablePicture as error:
            caption = f"{name} cannot be read: {escape(error.reason)}"
            yield f"<figure><figcaption class='fault'>{caption}</figcaption></figure>"
            continue
        boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances(
            pixels.shape[:2],
            pred_boxes=Boxes(boxes),
            pred_classes=torch.tensor([a["category_id"] for a in objects], dtype=torch.long),
        )
        drawn = draw(pixels, instances, list(classes))
        caption = f"{name}, {len(objects)} objects"
        yield f"<figure><img src='{as_url(drawn)}'><figcaption>{caption}</figcaption></figure>"


def as_url(pixels: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 RGB as a data URL, as JPEG, not wider or higher than `WIDTH`."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((WIDTH, WIDTH))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
