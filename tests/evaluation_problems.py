"""Random annotations and detections on them, with all that evaluators have to get right.

Crowds and ignored objects, empty images, equal scores, areas on the borders of sizes or 0, boxes
without width, more detections in an image than count, categories without objects.
"""

import numpy as np
import pycocotools.mask as mask_util

CROWDED = 0.15  # images with more detections than count


def problem(seed, lvis=False):
    """Annotations as the content of a file, and detections as a list of results.

    The stream of numbers of `RandomState` is promised to stay as it is.
    """
    rng = np.random.RandomState(seed)
    size = rng.randint(40, 300, 2).tolist()
    images = [
        {"id": int(i), "height": size[0], "width": size[1], "file_name": f"{i}.png"}
        for i in rng.permutation(1000)[: rng.randint(2, 14)] + 1
    ]
    categories = [
        {"id": int(i), "name": f"c{i}", "frequency": rng.choice(list("rcf")), "image_count": 1}
        for i in rng.permutation(50)[: rng.randint(1, 7)] + 1
    ]
    ids = [category["id"] for category in categories]
    present = [i for i in ids if rng.rand() > 0.25]
    decimals = rng.choice([0, 1, 2, 16])  # few of them make equal scores
    annotations, detections = [], []
    for image in images:
        number = 0 if rng.rand() < 0.2 or not present else rng.randint(0, 12)
        objects = [_object(rng, image, int(rng.choice(present)), lvis) for _ in range(number)]
        annotations += objects
        if lvis:
            absent = set(ids) - {a["category_id"] for a in objects}
            image["neg_category_ids"] = [i for i in sorted(absent) if rng.rand() < 0.4]
            image["not_exhaustive_category_ids"] = [i for i in ids if rng.rand() < 0.3]
        number = rng.randint(110, 400) if rng.rand() < CROWDED else rng.randint(0, 30)
        for _ in range(number if rng.rand() > 0.1 else 0):
            detections.append(_detection(rng, image, objects, ids, decimals))
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    content = {"info": {}, "images": images, "categories": categories, "annotations": annotations}
    return content, [detections[i] for i in rng.permutation(len(detections))]


def _object(rng, image, category, lvis):
    height, width = image["height"], image["width"]
    w, h = (
        rng.uniform(1, 30, 2) if rng.rand() < 0.4 else rng.uniform(0.02, 0.9, 2) * (width, height)
    )
    box = [rng.uniform(0, width - w), rng.uniform(0, height - h), w, h]
    box = [float(round(v)) if rng.rand() < 0.5 else float(v) for v in box]
    box[2:] = [max(1.0, v) for v in box[2:]]
    x, y, w, h = box
    annotation = {
        "image_id": image["id"],
        "category_id": category,
        "bbox": box,
        "area": w * h * rng.choice([1, 0.75]),
        "iscrowd": int(rng.rand() < 0.12),
    }
    if rng.rand() < 0.1:
        annotation["area"] = float(rng.choice([32**2, 96**2, 0, 1e5]))
    if lvis and rng.rand() < 0.15:
        annotation["ignore"] = 1
    corner = [x, y, x + w / 2, y, x + w / 2, y + h / 2, x + w, y + h / 2, x + w, y + h, x, y + h]
    by_pixels = annotation["iscrowd"] or rng.rand() < 0.4
    annotation["segmentation"] = _pixels(rng, image, box) if by_pixels else [corner]
    return annotation


def _detection(rng, image, objects, ids, decimals):
    if objects and rng.rand() < 0.6:  # near an object, mostly of its class
        found = objects[rng.randint(len(objects))]
        box = np.array(found["bbox"])
        box += rng.normal(0, 1, 4) * box[[2, 3, 2, 3]] * rng.choice([0, 0.02, 0.1, 0.3])
        category = found["category_id"] if rng.rand() < 0.9 else rng.choice(ids)
    else:
        sizes = np.array([image["width"], image["height"]] * 2)
        box = rng.uniform(0, [0.8, 0.8, 0.5, 0.5]) * sizes
        category = rng.choice(ids)
    box[2:] = np.maximum(box[2:], 0.5 if rng.rand() < 0.9 else 0)
    return {
        "image_id": image["id"],
        "category_id": int(category),
        "bbox": box.tolist(),
        "score": float(round(rng.rand(), decimals)),
        "segmentation": _pixels(rng, image, [*np.maximum(box[:2], 0), *box[2:]]),
    }


def _pixels(rng, image, box):
    """A compressed mask: of the box all or all but a quarter."""
    x, y, w, h = (round(v) for v in box)
    mask = np.zeros((image["height"], image["width"]), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    if rng.rand() < 0.5:
        mask[y : y + h // 2, x + w // 2 : x + w] = 0
    encoded = mask_util.encode(mask)
    return {**encoded, "counts": encoded["counts"].decode()}


def without(detections, *keys):
    """The detections as new dicts, some keys left out."""
    return [{k: v for k, v in d.items() if k not in keys} for d in detections]
