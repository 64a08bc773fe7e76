"""A tiny COCO-style dataset on disk that tests can spoil, and throw-away registered names."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

_counter = itertools.count()


@pytest.fixture
def tiny(tmp_path):
    """Four pictures (two wide, two high), two categories with ids 5 and 9, one picture empty.

    `register()` writes `content` as it is by then, registers it and returns the name.
    """
    root = tmp_path / "pictures"
    root.mkdir()
    sizes = {1: (40, 60), 2: (60, 40), 3: (40, 64), 4: (64, 40)}  # height, width
    for image_id, (height, width) in sizes.items():
        pixels = np.random.default_rng(image_id).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{image_id}.png")
    boxes = [(1, 5, [10, 10, 20, 10]), (1, 9, [30, 5, 10, 30]), (2, 9, [0, 0, 40, 60])]
    boxes.append((3, 5, [4, 4, 8, 8]))
    content = {
        "categories": [{"id": 9, "name": "lamp"}, {"id": 5, "name": "boat"}],
        "images": [
            {"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width}
            for image_id, (height, width) in sizes.items()
        ],
        "annotations": [
            {"id": number, "image_id": image_id, "category_id": category_id, "bbox": box}
            | {"area": box[2] * box[3], "iscrowd": 0}
            for number, (image_id, category_id, box) in enumerate(boxes, start=1)
        ],
    }
    names = []

    def register():
        json_file = tmp_path / f"instances_{len(names)}.json"
        json_file.write_text(json.dumps(content))
        names.append(f"tiny_{next(_counter)}")
        register_coco_instances(names[-1], {}, str(json_file), str(root))
        return names[-1]

    yield SimpleNamespace(root=root, content=content, register=register)
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
