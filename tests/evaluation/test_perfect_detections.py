"""The annotations themselves given as detections: AP is 100, however the file is written."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2 import evaluation as detectron2_evaluation
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_lvis_instances
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from co_detr.data import load_dataset
from co_detr.evaluation import evaluators
from co_detr.evaluation.lvis_api import LVIS, LVISEval, LVISResults

SIZES = {1: (80, 120), 2: (120, 80), 3: (80, 80)}  # height, width
# image, category, box; image 3 has no objects
OBJECTS = [
    (1, 1, [10, 10, 20, 10]),
    (1, 2, [40, 8, 60, 60]),
    (1, 2, [5, 40, 12, 30]),
    (2, 3, [0, 0, 40, 60]),
    (2, 1, [44, 30, 30, 40]),
]
EVALUATORS = {
    "coco": (detectron2_evaluation.COCOEvaluator, evaluators.COCOEvaluator),
    "lvis": (detectron2_evaluation.LVISEvaluator, evaluators.LVISEvaluator),
}
_names = (f"perfect_{number}" for number in itertools.count())


def l_shape(x, y, w, h):
    """A polygon: the box without its upper right quarter."""
    return [x, y, x + w / 2, y, x + w / 2, y + h / 2, x + w, y + h / 2, x + w, y + h, x, y + h]


def content():
    return {
        "images": [
            {"id": i, "file_name": f"val/{i}.png", "height": h, "width": w}
            for i, (h, w) in SIZES.items()
        ],
        "categories": [{"id": i, "name": n} for i, n in enumerate(("ant", "bee", "cat"), 1)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}
            | {"area": box[2] * box[3] * 3 / 4, "segmentation": [l_shape(*box)]}
            for number, (image, category, box) in enumerate(OBJECTS, start=1)
        ],
    }


def annotated(**changes):
    def change(file):
        for annotation in file["annotations"]:
            annotation.update({key: new(annotation[key]) for key, new in changes.items()})

    return change


def removed(*keys):
    def change(file):
        for annotation in file["annotations"]:
            for key in keys:
                del annotation[key]

    return change


def renumbered_images(own, referred):
    def change(file):
        for image in file["images"]:
            image["id"] = own(image["id"])
        annotated(image_id=referred)(file)

    return change


def renumbered_categories(number):
    def change(file):
        for category in file["categories"]:
            category["id"] = number(category["id"])
        annotated(category_id=number)(file)

    return change


def with_run_lengths(file):
    for annotation, (image, _, box) in zip(file["annotations"], OBJECTS):
        rle = mask_util.merge(mask_util.frPyObjects([l_shape(*box)], *SIZES[image]))
        flat = mask_util.decode(rle).flatten(order="F")
        runs = np.diff(np.flatnonzero(np.diff(flat, prepend=0, append=2)), prepend=0).tolist()
        compressed = {"size": rle["size"], "counts": rle["counts"].decode()}
        plain = {"size": rle["size"], "counts": runs}
        annotation["segmentation"] = compressed if annotation["id"] % 2 else plain


def text_when(condition):
    return lambda value: str(value) if condition(value) else value


WAYS = {
    "as it should be": lambda file: None,
    "annotation ids from 0": annotated(id=lambda i: i - 1),
    "negative annotation ids": annotated(id=lambda i: -i),
    "annotation ids in text": annotated(id=str),
    "annotation ids as names": annotated(id="ab-{}".format),
    "some annotation ids in text": annotated(id=text_when(lambda i: i > 2)),
    "huge annotation ids": annotated(id=lambda i: i + 2**60),
    "repeated annotation ids": annotated(id=lambda i: i // 2),
    "no annotation ids": removed("id"),
    "image ids from 0": renumbered_images(lambda i: i - 1, lambda i: i - 1),
    "image ids as names": renumbered_images("im{}".format, "im{}".format),
    "image ids in text": renumbered_images(str, str),
    "image ids in text in the annotations": renumbered_images(int, str),
    "image ids in text in the images": renumbered_images(str, int),
    "some image ids as names": renumbered_images(*[lambda i: f"im{i}" if i == 2 else i] * 2),
    "no area": removed("area"),
    "area 0": annotated(area=lambda a: 0),
    "area in text": annotated(area=str),
    "no iscrowd": removed("iscrowd"),
    "iscrowd null": annotated(iscrowd=lambda flag: None),
    "iscrowd false": annotated(iscrowd=bool),
    "iscrowd in text": annotated(iscrowd=str),
    "boxes in text": annotated(bbox=lambda box: [str(value) for value in box]),
    "everything missing": removed("id", "area", "iscrowd"),
    "run lengths": with_run_lengths,
}
CATEGORY_WAYS = {
    "category ids from 0": renumbered_categories(lambda i: i - 1),
    "category ids in text": renumbered_categories(str),
    "category ids with gaps": renumbered_categories(lambda i: 10**12 * i),
    "category ids as names": renumbered_categories("c{}".format),
    "one name twice": lambda file: file["categories"][2].update(name="ant"),
}


@pytest.fixture
def register(tmp_path):
    """Write and register a file of a kind, return the name."""
    names = []

    def write(file, kind="coco", root=None):
        names.append(next(_names))
        path = tmp_path / f"{names[-1]}.json"
        path.write_text(json.dumps(file))
        registering = register_coco_instances if kind == "coco" else register_lvis_instances
        registering(names[-1], {}, str(path), str(tmp_path) if root is None else root)
        return names[-1]

    yield write
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def as_detections(record):
    """Instances as models return them, of the annotations of a record that are no crowds."""
    size = record["height"], record["width"]
    objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    found = Instances(size)
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores = torch.ones(len(objects))
    found.pred_classes = torch.tensor([a["category_id"] for a in objects], dtype=torch.int64)
    masks = torch.zeros(len(objects), *size, dtype=torch.bool)
    for mask, annotation in zip(masks, objects):
        part = annotation["segmentation"]
        if isinstance(part, list):
            part = mask_util.merge(mask_util.frPyObjects(part, *size))
        mask[:] = torch.from_numpy(mask_util.decode(part)).bool()
    found.pred_masks = masks
    return found


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", EVALUATORS)
def test_files_in_other_forms_of_unicode_are_evaluated_by(kind, encoding, register):
    name = register(content(), kind)
    path = Path(MetadataCatalog.get(name).json_file)
    path.write_text(path.read_text(), encoding=encoding)
    records = load_dataset(name)
    for evaluator in EVALUATORS[kind]:
        results = evaluate(evaluator(name, ("bbox",), distributed=False), records)
        assert results["bbox"]["AP"] == pytest.approx(100)


def evaluate(evaluator, records, predict=as_detections):
    evaluator.reset()
    for record in records:
        evaluator.process([{"image_id": record["image_id"]}], [{"instances": predict(record)}])
    return evaluator.evaluate()


@pytest.mark.parametrize(
    "kind, way",
    [(kind, way) for kind in EVALUATORS for way in WAYS]
    + [("coco", way) for way in CATEGORY_WAYS]
    + [("lvis", "category ids in text"), ("lvis", "one name twice")],
)
def test_perfect_detections_score_100(kind, way, register):
    file = content()
    (WAYS | CATEGORY_WAYS)[way](file)
    name = register(file, kind)
    records = load_dataset(name)
    for evaluator in EVALUATORS[kind]:
        results = evaluate(evaluator(name, tasks=["bbox", "segm"], distributed=False), records)
        for task in ("bbox", "segm"):
            # one object is large enough to be of medium size; none is large
            sizes = {metric: results[task][metric] for metric in ("AP", "AP75", "APs", "APm")}
            assert sizes == pytest.approx(dict.fromkeys(sizes, 100)), (evaluator, task)
            assert math.isnan(results[task]["APl"])
        per_class = [value for name, value in results["bbox"].items() if name.startswith("AP-")]
        assert per_class == pytest.approx([100] * (3 if kind == "coco" else 0))


def test_our_evaluators_need_no_load_dataset_before(register):
    file = content()
    renumbered_categories(str)(file)
    removed("area")(file)
    name = register(file)
    evaluator = evaluators.COCOEvaluator(name, tasks=["bbox"], distributed=False)
    assert evaluate(evaluator, load_dataset(name))["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("kind, first", [("coco", 0), ("lvis", 0), ("coco", "a"), ("coco", 1)])
def test_detectron2_itself_takes_any_annotation_ids(kind, first, register):
    """Without anything of this package, as scripts for detectron2 do it."""
    file = content()
    annotated(id=lambda i: i - 1 if first == 0 else f"a{i}" if first == "a" else i)(file)
    for image in file["images"]:
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    for category in file["categories"]:
        category["frequency"] = "f"
    name = register(file, kind)
    evaluator = EVALUATORS[kind][0](name, tasks=["bbox"], distributed=False)
    assert evaluate(evaluator, DatasetCatalog.get(name))["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_the_packages_themselves_read_what_was_repaired(kind, register):
    """As upstream detectron2 calls them, by the path of its path manager."""
    file = content()
    annotated(id=lambda i: i - 1, image_id=str)(file)
    removed("area", "iscrowd")(file)
    name = register(file, kind)
    records = load_dataset(name)
    path = PathManager.get_local_path(MetadataCatalog.get(name).json_file)
    results = []
    for record in records:
        found = instances_to_coco_json(as_detections(record), record["image_id"])
        results += [{**d, "category_id": d["category_id"] + 1} for d in found]
    if kind == "lvis":
        truth = LVIS(path)
        run = LVISEval(truth, LVISResults(truth, results), "segm")
        run.run()
        assert run.get_results()["AP"] == pytest.approx(1)
    else:
        truth = COCO(path)
        run = COCOeval(truth, truth.loadRes(results), "segm")
        for step in (run.evaluate, run.accumulate, run.summarize):
            step()
        assert run.stats[0] == pytest.approx(1)


def test_masks_are_evaluated_where_there_are_some(register):
    file = content()
    removed("segmentation")(file)
    name = register(file)
    records = load_dataset(name)

    def with_masks(record):
        found = Instances((record["height"], record["width"]))
        boxes = [
            BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
            for a in record["annotations"]
        ]
        found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]]).long()
        found.scores = torch.ones(len(boxes))
        found.pred_masks = torch.ones(len(boxes), *found.image_size, dtype=torch.bool)
        return found

    results = evaluate(evaluators.COCOEvaluator(name, distributed=False), records, with_masks)
    assert list(results) == ["bbox"] and results["bbox"]["AP"] == pytest.approx(100)
    with pytest.raises(ValueError, match="has no masks to evaluate.*tasks=.bbox."):
        evaluators.COCOEvaluator(name, tasks=["segm"])


def test_an_object_without_a_mask_counts_with_its_box(register):
    """One of five objects: found by its box it counts, with another mask it does not."""
    file = content()
    file["annotations"][3]["segmentation"] = [[1, 2, 3, 4]]
    name = register(file)
    records = load_dataset(name, is_train=False)
    x, y, w, h = OBJECTS[3][2]

    def with_box(record):
        for annotation in record["annotations"]:
            box = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotation.setdefault("segmentation", [box])
        return as_detections(record)

    evaluator = evaluators.COCOEvaluator(name, distributed=False)
    results = evaluate(evaluator, records, with_box)
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)


def test_functions_of_ones_own_read_what_was_repaired(register, tmp_path):
    from detectron2.data.datasets import load_coco_json

    file = content()
    annotated(id=lambda i: i // 2, iscrowd=lambda flag: None)(file)
    plain = register(file)
    path = MetadataCatalog.get(plain).json_file
    name = next(_names)
    DatasetCatalog.register(name, lambda: load_coco_json(path, str(tmp_path), name))
    MetadataCatalog.get(name).set(json_file=path, evaluator_type="coco")
    records = load_dataset(name)
    assert sum(len(record["annotations"]) for record in records) == 5
    evaluator = detectron2_evaluation.COCOEvaluator(name, tasks=["segm"], distributed=False)
    assert evaluate(evaluator, records)["segm"]["AP"] == pytest.approx(100)


def test_a_file_that_is_written_anew_is_read_anew(register):
    file = content()
    removed("area")(file)
    name = register(file)
    load_dataset(name)
    evaluator = detectron2_evaluation.COCOEvaluator(name, tasks=["bbox"], distributed=False)
    file["annotations"] = file["annotations"][:3]
    with open(MetadataCatalog.get(name).json_file, "w") as opened:
        json.dump(file, opened)
    records = load_dataset(name)
    assert evaluate(evaluator, records)["bbox"]["AP"] < 100
    evaluator = detectron2_evaluation.COCOEvaluator(name, tasks=["bbox"], distributed=False)
    assert evaluate(evaluator, records)["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_crowds_and_empty_boxes_are_treated_as_in_training(kind, register):
    """Nobody is asked to find them, and what is found in a crowd is not wrong."""
    file = content()
    file["annotations"][1]["iscrowd"] = 1
    file["annotations"][0]["bbox"] = [10, 10, 0, 10]
    name = register(file, kind)
    records = load_dataset(name)
    assert [len(record["annotations"]) for record in records] == [2, 2, 0]

    def with_one_in_the_crowd(record):
        found = as_detections(record)
        if record["image_id"] != 1:
            return found
        inside = Instances(found.image_size, **found.get_fields())
        inside.pred_boxes = Boxes(torch.tensor([[40.0, 8, 100, 68]]))
        inside.pred_classes = torch.tensor([1])
        inside.scores = torch.tensor([2.0])
        return Instances.cat([inside, found])

    for evaluator in EVALUATORS[kind]:
        for predict in (as_detections, with_one_in_the_crowd):
            scorer = evaluator(name, tasks=["bbox"], distributed=False)
            assert evaluate(scorer, records, predict)["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("slash", ["", "/"])
def test_lvis_pictures_are_found_by_folder_and_name(register, tmp_path, slash):
    file = content()
    file["images"][1]["coco_url"] = "http://host/coco/train2017/7.jpg"
    file["images"][2]["coco_url"] = None
    (tmp_path / "coco").mkdir()
    records = load_dataset(register(file, "lvis", f"{tmp_path}/coco{slash}"))
    names = [record["file_name"] for record in records]
    assert names == [
        f"{tmp_path}/coco/{name}" for name in ("val/1.png", "train2017/7.jpg", "val/3.png")
    ]


@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_pictures_that_were_not_read_do_not_count(kind, register):
    name = register(content(), kind)
    records = load_dataset(name)
    detectron2s, ours = (e(name, tasks=["bbox"], distributed=False) for e in EVALUATORS[kind])
    assert evaluate(detectron2s, records[:1])["bbox"]["AP"] < 100
    assert evaluate(ours, records[:1])["bbox"]["AP"] == pytest.approx(100)
    found_in_the_second = evaluate(ours, records, lambda r: as_detections(r)[: r["image_id"] - 1])
    assert found_in_the_second["bbox"]["AP"] < 100  # the others count again


# ---------------------------------------------------------------------------- nothing found


def nothing(record):
    return as_detections(record)[:0]


def test_finding_nothing_scores_0_where_there_are_objects(register):
    file = content()
    file["annotations"] = [a for a in file["annotations"] if a["category_id"] != 3]
    name = register(file)
    evaluator = evaluators.COCOEvaluator(name, tasks=["bbox", "segm"], distributed=False)
    results = evaluate(evaluator, load_dataset(name), nothing)
    expected = {"AP": 0, "AP50": 0, "AP75": 0, "APs": 0, "APm": 0, "APl": math.nan}
    expected |= {"AP-ant": 0, "AP-bee": 0, "AP-cat": math.nan}
    for task in ("bbox", "segm"):
        assert results[task] == pytest.approx(expected, nan_ok=True)


def test_finding_nothing_where_there_is_nothing_has_no_ap(register):
    file = content()
    file["annotations"] = []
    name = register(file)
    evaluator = evaluators.COCOEvaluator(name, tasks=["bbox"], distributed=False)
    results = evaluate(evaluator, load_dataset(name, is_train=False), nothing)
    assert math.isnan(results["bbox"]["AP"])


def test_finding_nothing_in_lvis_scores_0_by_frequency(register):
    file = content()
    for category, count in zip(file["categories"], (5, 50, 500)):
        category["image_count"] = count
    file["annotations"] = [a for a in file["annotations"] if a["category_id"] != 2]
    name = register(file, "lvis")
    evaluator = evaluators.LVISEvaluator(name, tasks=["bbox"], distributed=False)
    results = evaluate(evaluator, load_dataset(name), nothing)["bbox"]
    assert {m: results[m] for m in ("AP", "APr", "APf")} == {"AP": 0, "APr": 0, "APf": 0}
    assert math.isnan(results["APc"]) and math.isnan(results["APl"])
