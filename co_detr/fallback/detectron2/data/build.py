"""Dataset names to records, records to data loaders."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch.utils.data as torchdata
from tabulate import tabulate

from detectron2._not_embedded import refuse
from detectron2.config import CfgNode, configurable
from detectron2.data.catalog import (
    DatasetCatalog,
    MetadataCatalog,
    check_metadata_consistency,
)
from detectron2.data.common import AspectRatioGroupedDataset, DatasetFromList, MapDataset
from detectron2.data.dataset_mapper import DatasetMapper
from detectron2.data.samplers import (
    InferenceSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm

__all__ = [
    "build_detection_test_loader",
    "build_detection_train_loader",
    "filter_images_with_only_crowd_annotations",
    "get_detection_dataset_dicts",
    "print_instances_class_histogram",
]

logger = logging.getLogger(__name__)


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """The records that have at least one annotation that is no crowd region."""
    kept = [
        record
        for record in dataset_dicts
        if any(annotation.get("iscrowd", 0) == 0 for annotation in record["annotations"])
    ]
    removed = len(dataset_dicts) - len(kept)
    logger.info(f"Removed {removed} images without objects, {len(kept)} images are left")
    return kept


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: list[str]) -> None:
    """
    Log how many objects (crowd regions left out) each class has.

    Raises ValueError where a category lies outside `class_names`.
    """
    classes = np.array(
        [
            annotation["category_id"]
            for record in dataset_dicts
            for annotation in record["annotations"]
            if not annotation.get("iscrowd", 0)
        ],
        dtype=np.int64,
    )
    if len(classes) and not 0 <= classes.min() <= classes.max() < len(class_names):
        raise ValueError(
            f"category ids run from {classes.min()} to {classes.max()}, but there are "
            f"{len(class_names)} classes; category ids must be contiguous and start at 0"
        )
    counts = np.bincount(classes, minlength=len(class_names)).tolist()
    cells = [cell for row in zip(class_names, counts) for cell in row] + ["total", sum(counts)]
    width = 6  # three pairs of name and count per line
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    table = tabulate(rows, headers=["class", "objects"] * 3, tablefmt="pipe", numalign="left")
    logger.info(f"Objects per class in {len(dataset_dicts)} images:\n{table}")


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> list[dict]:
    """
    Load registered datasets for detection and concatenate their records.

    Args:
        names: one or several registered names.
        filter_empty: leave out images that have no object or crowd regions only.
        min_keypoints, proposal_files: not supported here, to be left as they are.
        check_consistency: check that all datasets have the same classes, and log how many
            objects each class has.

    Raises:
        KeyError (a name that is not registered), ValueError (datasets with different classes, or
        what is not supported), AssertionError (no name, a dataset without images, nothing left by
        the filter).
    """
    refuse(
        "get_detection_dataset_dicts", min_keypoints=min_keypoints, proposal_files=proposal_files
    )
    names = [names] if isinstance(names, str) else list(names)
    assert names, "no dataset names given; set the names of registered datasets"
    records = []
    for name in names:
        loaded = DatasetCatalog.get(name)
        assert len(loaded), f"dataset {name!r} has no images; check its annotation file"
        records.extend(loaded)

    has_annotations = "annotations" in records[0]
    if filter_empty and has_annotations:
        records = filter_images_with_only_crowd_annotations(records)
        assert (
            records
        ), f"datasets {names} have no image with objects; pass filter_empty=False to keep them"
    # Datasets need not name their classes; those that do must agree.
    named = ["thing_classes" in MetadataCatalog.get(name).as_dict() for name in names]
    if check_consistency and has_annotations and all(named):
        check_metadata_consistency("thing_classes", names)
        print_instances_class_histogram(records, MetadataCatalog.get(names[0]).thing_classes)
    return records


def _keep_as_list(batch: list) -> list:
    return batch


def _mapped_dataset(dataset: Any, mapper: Callable | None) -> torchdata.Dataset:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


def _train_sampler(cfg: CfgNode, records: Any) -> torchdata.Sampler:
    options = cfg.DATALOADER
    if options.SAMPLER_TRAIN == "TrainingSampler":
        return TrainingSampler(len(records))
    if options.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, options.REPEAT_THRESHOLD, sqrt=options.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors)
    raise ValueError(
        "DATALOADER.SAMPLER_TRAIN is 'TrainingSampler' or 'RepeatFactorTrainingSampler', got "
        f"{options.SAMPLER_TRAIN!r}"
    )


def _train_loader_from_config(
    cfg: CfgNode,
    mapper: Callable[[dict], dict | None] | None = None,
    *,
    dataset: list[dict] | torchdata.Dataset | None = None,
    sampler: torchdata.Sampler | None = None,
) -> dict[str, Any]:
    """The arguments of `build_detection_train_loader` for a config."""
    if dataset is None:
        dataset = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = _train_sampler(cfg, dataset)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "sampler": sampler,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: list | torchdata.Dataset,
    *,
    mapper: Callable[[dict], dict | None] | None,
    sampler: torchdata.Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list[dict]], Any] | None = None,
    **kwargs: Any,
) -> Any:
    """
    An endless stream of training batches.

    `build_detection_train_loader(cfg, mapper=None)` takes what is not given from a `CfgNode`.

    Args:
        dataset: records, or a torch dataset of them (map-style or iterable).
        mapper: from a record to an example; a record it maps to None is replaced by another. None
            leaves records as they are.
        sampler: an endless sampler; a shuffling `TrainingSampler` by default. Must be None for
            iterable datasets.
        total_batch_size: images per step over all ranks.
        aspect_ratio_grouping: whether to batch wide images apart from the others. Needs "width"
            and "height" in each example.
        num_workers: loading processes per rank.
        collate_fn: makes a batch of a list of examples; by default the list is the batch.
        kwargs: further arguments of torch's DataLoader (pin_memory, prefetch_factor, ...).

    Returns:
        An iterable over batches: `list[dict]` without a `collate_fn`.
    """
    world_size = comm.get_world_size()
    assert total_batch_size > 0 and total_batch_size % world_size == 0, (
        f"total_batch_size must be a positive multiple of the {world_size} processes, got "
        f"{total_batch_size}"
    )
    batch_size = total_batch_size // world_size

    dataset = _mapped_dataset(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "an iterable dataset decides its own order; leave sampler out"
    elif sampler is None:
        sampler = TrainingSampler(len(dataset))
    assert sampler is None or isinstance(
        sampler, torchdata.Sampler
    ), f"sampler must be a torch Sampler, got {type(sampler)}"

    options = {"sampler": sampler, "num_workers": num_workers, **kwargs}
    if not aspect_ratio_grouping:
        return torchdata.DataLoader(
            dataset,
            batch_size=batch_size,
            drop_last=True,
            collate_fn=collate_fn or _keep_as_list,
            **options,
        )
    # batch_size=None loads single examples, grouped afterwards in this process.
    examples = torchdata.DataLoader(dataset, batch_size=None, collate_fn=_keep_as_list, **options)
    batches = AspectRatioGroupedDataset(examples, batch_size)
    return batches if collate_fn is None else MapDataset(batches, collate_fn)


def _test_loader_from_config(
    cfg: CfgNode,
    dataset_name: str | Sequence[str],
    mapper: Callable[[dict], dict] | None = None,
) -> dict[str, Any]:
    """The arguments of `build_detection_test_loader` for a config and a registered dataset."""
    return {
        "dataset": get_detection_dataset_dicts(dataset_name, filter_empty=False),
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: list | torchdata.Dataset,
    *,
    mapper: Callable[[dict], dict] | None,
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list[dict]], Any] | None = None,
) -> torchdata.DataLoader:
    """
    A loader that visits every record once, in order, each rank its share.

    `build_detection_test_loader(cfg, dataset_name, mapper=None)` takes what is not given from a
    `CfgNode`.

    Args:
        dataset: records, or a torch dataset of them (map-style or iterable).
        mapper: from a record to an example; None leaves records as they are.
        sampler: an `InferenceSampler` by default. Must be None for iterable datasets.
        batch_size: images per batch and rank. The last batch may be smaller.
        num_workers: loading processes per rank.
        collate_fn: makes a batch of a list of examples; by default the list is the batch.
    """
    dataset = _mapped_dataset(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "an iterable dataset decides its own order; leave sampler out"
    elif sampler is None:
        sampler = InferenceSampler(len(dataset))
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=collate_fn or _keep_as_list,
    )
