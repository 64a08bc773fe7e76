"""Pictures of a data set as a model is evaluated on them, together with their objects."""

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.structures import BoxMode
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from co_detr.data.annotations import shorten
from co_detr.data.loader import TestLoader, build_test_loader
from co_detr.data.values import as_number


def annotated_loader(
    cfg: DictConfig, images: int | None = None, image_ids: Sequence[int | str] = ()
) -> TestLoader:
    """The pictures of `dataloader.test`, with its augmentations and in its batches.

    Examples are those of the evaluation, plus "instances" (`gt_boxes`, `gt_classes` and, where the
    model is trained on masks, `gt_masks`) as in training, in pixels of the model input and without
    crowd regions, and "crowd_boxes" (n, 4), these in absolute XYXY of the same pixels.

    Args:
        cfg: the whole config.
        images: at most so many, the first ones; None for all.
        image_ids: only these, in this order; a text that spells a number may mean it.

    Raises:
        ValueError: there is none, an id is not in the data set, or it has no annotations.
    """
    test, train = cfg.dataloader.test, cfg.dataloader.train.mapper
    records = _selected(instantiate(test.dataset), images, image_ids)
    mapper = copy.deepcopy(test.mapper)
    mapper.is_train = True  # that is, with annotations
    for key in ("use_instance_mask", "instance_mask_format"):
        if key in train:
            mapper[key] = train[key]
    return build_test_loader(
        records,
        mapper=WithCrowds(instantiate(mapper)),
        num_workers=test.get("num_workers", 0),
        batch_size=test.get("batch_size", 1),
    )


def with_progress(loader: TestLoader, label: str) -> Iterator[list[dict]]:
    """The batches of a loader, counted on the console."""
    return iter(tqdm(loader, desc=label, unit="batch"))


class WithCrowds:
    """A mapper whose examples have the crowd regions of the record, too."""

    def __init__(self, mapper: Callable[[dict], dict]) -> None:
        self.mapper = mapper

    def __call__(self, record: dict) -> dict:
        example = self.mapper(record)
        size = example["image"].shape[-2:]
        example["crowd_boxes"] = crowd_boxes(record, size)
        return example


def crowd_boxes(record: dict, size: tuple[int, int]) -> Tensor:
    """(n, 4) absolute XYXY boxes of a record's crowd regions, in a picture resized to `size`.

    Args:
        record: detectron2's, with "height", "width" and "annotations".
        size: (height, width) of the model input.
    """
    boxes = [
        BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
        for annotation in record["annotations"]
        if annotation.get("iscrowd", 0)
    ]
    factor = torch.tensor([size[1] / record["width"], size[0] / record["height"]]).repeat(2)
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) * factor


def _selected(
    records: list[dict], images: int | None, image_ids: Sequence[int | str]
) -> list[dict]:
    if image_ids:
        by_id = {record["image_id"]: record for record in records}
        records = [_record_of(by_id, image_id) for image_id in image_ids]
    records = records[:images]
    if not records:
        raise ValueError("no images are left to look at")
    if unlabelled := [r["file_name"] for r in records if "annotations" not in r]:
        raise ValueError(f"{unlabelled[0]} has no annotations: set dataloader.test.dataset.names")
    return records


def _record_of(by_id: dict[int | str, dict], image_id: int | str) -> dict:
    for meant in (as_number(image_id), str(image_id)):
        if meant in by_id:
            return by_id[meant]
    raise ValueError(
        f"the data set has no image of the id {image_id!r} (it has {shorten(list(by_id))}): name "
        "others, or set dataloader.test.dataset.names to the data set of this one"
    )


def rgb(example: dict, image_format: str) -> np.ndarray:
    """(H, W, 3) uint8: the picture of an example as a person sees it.

    Args:
        example: with "image", (3, H, W) of 0..255.
        image_format: of the model, "RGB" or "BGR".
    """
    picture = example["image"].to(torch.uint8).permute(1, 2, 0).numpy()
    return picture[:, :, ::-1] if image_format == "BGR" else picture
