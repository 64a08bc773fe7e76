"""What detectron2 uses of the package `lvis`, computed by `hotcoco`: with the same results.

`lvis` 0.5.3 is no longer maintained: it reads `numpy.float`, and it draws with OpenCV.
"""

import contextlib
import json
import logging
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import hotcoco

# beyond the largest size that counts: nobody is asked to find it, and a detection that matches it
# is neither right nor wrong
_IGNORED_AREA = 1e11


class LVIS:
    """An LVIS-format annotation file.

    Attributes:
        dataset: its content; after a change, call `_create_index`, as upstream's users do.

    Args:
        annotation_path: a local file, or its content.
    """

    def __init__(self, annotation_path: str | dict[str, Any]):
        if isinstance(annotation_path, dict):
            self.dataset = annotation_path
        else:
            # bytes: json finds out about UTF-8, -16 or -32, with or without a mark
            self.dataset = json.loads(Path(annotation_path).read_bytes())
        self._create_index()

    def _create_index(self) -> None:
        self.imgs = {image["id"]: image for image in self.dataset["images"]}
        self.cats = {category["id"]: category for category in self.dataset["categories"]}
        self.anns = {annotation["id"]: annotation for annotation in self.dataset["annotations"]}
        self.img_ann_map = defaultdict(list)
        for annotation in self.dataset["annotations"]:
            self.img_ann_map[annotation["image_id"]].append(annotation)

    def get_cat_ids(self) -> list[int]:
        """Ids of all categories."""
        return list(self.cats)

    def get_img_ids(self) -> list[int]:
        """Ids of all images."""
        return list(self.imgs)

    def get_ann_ids(self, img_ids: Iterable[int] | None = None) -> list[int]:
        """Ids of the annotations of some images, or of all."""
        if img_ids is None:
            return [annotation["id"] for annotation in self.dataset["annotations"]]
        return [annotation["id"] for i in img_ids for annotation in self.img_ann_map[i]]

    def load_anns(self, ids: Iterable[int] | None = None) -> list[dict[str, Any]]:
        """Annotations by their ids, or all."""
        return list(self.anns.values()) if ids is None else [self.anns[i] for i in ids]

    def image_numbers(self) -> dict[int | str, int]:
        """Image ids as `hotcoco` wants them, which takes no names; in the order of the ids."""
        named = any(isinstance(image_id, str) for image_id in self.imgs)
        ids = sorted(self.imgs, key=str if named else None)
        return {image_id: number for number, image_id in enumerate(ids, start=1)}

    def to_hotcoco(self) -> hotcoco.COCO:
        """The same for `hotcoco`, which does not know `ignore`, takes `iscrowd` (not a word of
        LVIS) as COCO does, and counts objects of area 0, as `lvis` does not."""
        numbers = self.image_numbers()
        annotations = [
            {
                **annotation,
                "image_id": numbers[annotation["image_id"]],
                "area": _IGNORED_AREA if annotation.get("ignore") else annotation["area"],
                "iscrowd": 0,
            }
            for annotation in self.dataset["annotations"]
            if annotation["area"] > 0
        ]
        images = [{**image, "id": numbers[image["id"]]} for image in self.dataset["images"]]
        return hotcoco.COCO({**self.dataset, "images": images, "annotations": annotations})


class LVISResults:
    """Detections, of each image the best `max_dets` (all if negative) over all categories.

    Args:
        lvis_gt: the annotations.
        results: as COCO's results: image_id, category_id, score, and bbox (XYWH) or segmentation.
        max_dets: of an image.

    Raises:
        AssertionError: there are detections on images that the annotations do not have.
    """

    def __init__(self, lvis_gt: LVIS, results: Sequence[dict[str, Any]], max_dets: int = 300):
        self.limit = max_dets if max_dets >= 0 else max(len(results), 1)
        numbers = lvis_gt.image_numbers()
        unknown = {result["image_id"] for result in results}.difference(numbers)
        assert not unknown, f"no such images in the annotations: {sorted(unknown, key=str)[:10]}"
        self.truth = lvis_gt.to_hotcoco()
        results = [{**result, "image_id": numbers[result["image_id"]]} for result in results]
        self.detections = hotcoco.LVISResults(self.truth, results, max_dets)
        if self.detections.get_ann_ids(area_rng=[0, 0]):
            # `lvis` drops what has no area, after the limit
            kept = [
                {key: value for key, value in detection.items() if key in results[0]}
                for detection in self.detections.dataset["annotations"]
                if detection["area"] > 0
            ]
            self.detections = hotcoco.LVISResults(self.truth, kept, -1)


class LVISEval:
    """The evaluation by LVIS's rules.

    Args:
        lvis_gt: the annotations.
        lvis_dt: detections on them.
        iou_type: "bbox" or "segm".
    """

    def __init__(self, lvis_gt: LVIS, lvis_dt: LVISResults, iou_type: str = "segm"):
        self.evaluation = hotcoco.LVISEval(lvis_dt.truth, lvis_dt.detections, iou_type)
        if lvis_dt.limit > 300:  # else no more than 300 of a category would count
            self.evaluation.params.max_dets = [lvis_dt.limit]

    def run(self) -> None:
        """Match, accumulate, summarize."""
        # not `run`, which prints a summary
        self.evaluation.evaluate()
        self.evaluation.accumulate()

    def get_results(self) -> dict[str, float]:
        """AP, AP50, AP75, by size (APs, APm, APl), by frequency (APr, APc, APf), and recalls;
        between 0 and 1, or -1 where there is nothing to find."""
        with contextlib.redirect_stdout(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a limit that is not LVIS's own
            self.evaluation.summarize()
        return self.evaluation.get_results()

    def print_results(self) -> None:
        """Log the results."""
        lines = [f"{name}: {value:.3f}" for name, value in self.get_results().items()]
        logging.getLogger(__name__).info("LVIS: %s", ", ".join(lines))


@contextlib.contextmanager
def instead_of_lvis() -> Iterator[None]:
    """Inside, `import lvis` gives the classes of this module, whether it is installed or not."""
    module = ModuleType("lvis", __doc__)
    vars(module).update(LVIS=LVIS, LVISResults=LVISResults, LVISEval=LVISEval)
    before = sys.modules.get("lvis")
    sys.modules["lvis"] = module
    try:
        yield
    finally:
        if before is None:
            del sys.modules["lvis"]
        else:
            sys.modules["lvis"] = before
