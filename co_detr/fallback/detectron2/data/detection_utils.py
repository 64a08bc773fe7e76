"""The steps between a dataset record and a training example."""

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image

from detectron2._not_embedded import REMEDY
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.catalog import (
    DatasetCatalog,
    MetadataCatalog,
    check_metadata_consistency,
)
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils.file_io import PathManager

__all__ = [
    "SizeMismatchError",
    "annotations_to_instances",
    "build_augmentation",
    "check_image_size",
    "check_metadata_consistency",
    "convert_PIL_to_numpy",
    "filter_empty_instances",
    "get_fed_loss_cls_weights",
    "read_image",
    "transform_instance_annotations",
]

_EXIF_ORIENTATION = 0x0112
# EXIF orientation -> what brings the stored pixels upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class SizeMismatchError(ValueError):
    """An image has another size than its record says."""


def _apply_exif_orientation(image: Image.Image) -> Image.Image:
    """
    Turn an image upright as its EXIF data say.

    Pillow's `ImageOps.exif_transpose` also rewrites the EXIF block and fails on some that real
    cameras wrote; here unreadable EXIF data mean no turn.
    """
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # the parser raises whatever a broken block provokes
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """
    Convert a Pillow image to an array.

    Args:
        format: a Pillow mode or "BGR"; None keeps the image's own mode.

    Returns:
        (h, w, C) uint8 for the usual modes; "L" has one channel, and (h, w) only where a gray
        image keeps its mode.
    """
    if format is None:
        return np.array(image)
    array = np.array(image.convert("RGB" if format == "BGR" else format))
    if format == "BGR":
        return array[:, :, ::-1]
    return array[:, :, None] if array.ndim == 2 else array


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """
    Read an image file, upright by its EXIF orientation.

    Args:
        file_name: path of the image.
        format: "RGB", "BGR", "L" or another Pillow mode; None keeps the file's mode. Gray of more
            than 8 bits is scaled to 8 for the first three.

    Returns:
        (h, w, C) uint8, see `convert_PIL_to_numpy`.

    Raises:
        FileNotFoundError; OSError where the file is no image that Pillow can read.
    """
    from co_detr.data.pictures import formats_read, gray_levels  # itself on top of this package

    with PathManager.open(file_name, "rb") as file:
        image = _apply_exif_orientation(Image.open(file, formats=formats_read()))
        # gray of many bits, which Pillow would cut off at 255
        if format in ("RGB", "BGR", "L") and image.mode[0] in "IF":
            image = Image.fromarray(gray_levels(file_name, image))
        return convert_PIL_to_numpy(image, format)


def check_image_size(dataset_dict: dict, image: np.ndarray) -> None:
    """
    Check the image against the record's "height" and "width", and fill them in where absent.

    Raises SizeMismatchError, a wrong size would scale boxes wrongly in silence.
    """
    height, width = image.shape[:2]
    expected = (dataset_dict.get("height", height), dataset_dict.get("width", width))
    if expected != (height, width):
        raise SizeMismatchError(
            f"image {dataset_dict.get('file_name', '')} has height and width {(height, width)}, "
            f"its record says {expected}; correct the annotation file (photos may be turned by "
            "their EXIF orientation)"
        )
    dataset_dict["height"], dataset_dict["width"] = height, width


def transform_instance_annotations(
    annotation: dict,
    transforms: T.Transform | list[T.Transform],
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: np.ndarray | None = None,
) -> dict:
    """
    Apply image transforms to one annotation, in place.

    The box becomes absolute XYXY clipped to the image. Polygons are transformed (not clipped);
    run lengths become the transformed (h, w) mask.

    Args:
        annotation: with "bbox", "bbox_mode" and perhaps "segmentation".
        transforms: what was applied to the image.
        image_size: (height, width) of the transformed image.
        keypoint_hflip_indices: without effect, as there are no keypoints.

    Returns:
        The same dict.

    Raises:
        ValueError: a segmentation of another type; or the annotation has keypoints, which nothing
            here transforms.
    """
    if "keypoints" in annotation:
        raise ValueError(
            f"an annotation with keypoints: to transform them is {REMEDY}. Take the keypoints out "
            "of the annotation to train on its box"
        )
    if isinstance(transforms, (tuple, list)):
        transforms = T.TransformList(transforms)
    height, width = image_size
    box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    box = transforms.apply_box(np.array([box], dtype=np.float64))[0]
    annotation["bbox"] = box.clip(0, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS

    if "segmentation" in annotation:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            # Transforms change coordinates in place, hence the copy; integers could not be scaled.
            points = [np.array(p, dtype=np.float64).reshape(-1, 2) for p in segmentation]
            annotation["segmentation"] = [p.reshape(-1) for p in transforms.apply_polygons(points)]
        elif isinstance(segmentation, dict):
            mask = transforms.apply_segmentation(mask_util.decode(segmentation))
            assert mask.shape[:2] == tuple(image_size), (
                f"a mask of size {segmentation['size']} becomes {mask.shape[:2]} where the image "
                f"becomes {tuple(image_size)}; masks must have the size of their image"
            )
            annotation["segmentation"] = mask
        else:
            raise ValueError(
                f"cannot transform a segmentation of type {type(segmentation)}; give a list of "
                "polygons or COCO run lengths"
            )
    return annotation


def _to_bitmask(segmentation: Any, image_size: tuple[int, int]) -> np.ndarray:
    """One segmentation (polygons, run lengths or an array) as an (h, w) bool array."""
    if isinstance(segmentation, list):
        if not segmentation:
            return np.zeros(image_size, dtype=bool)
        parts = mask_util.frPyObjects([np.asarray(p).tolist() for p in segmentation], *image_size)
        return mask_util.decode(mask_util.merge(parts)).astype(bool)
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation).astype(bool)
    if isinstance(segmentation, np.ndarray):
        assert segmentation.ndim == 2, f"a mask is (h, w), got shape {segmentation.shape}"
        return segmentation.astype(bool)
    raise ValueError(
        f"cannot make a bitmask of a segmentation of type {type(segmentation)}; give a list of "
        "polygons, COCO run lengths or an array of 0 and 1"
    )


def annotations_to_instances(
    annos: list[dict], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """
    Collect annotations of one image in the `Instances` that models train on.

    Args:
        annos: with "bbox", "bbox_mode", "category_id" and perhaps "segmentation".
        image_size: (height, width).
        mask_format: "polygon" or "bitmask", the form of `gt_masks`.

    Returns:
        Instances with `gt_boxes` (absolute XYXY), `gt_classes` (int64) and, where the
        annotations have segmentations, `gt_masks`.

    Raises:
        ValueError where a segmentation has a form that `mask_format` cannot hold.
    """
    assert mask_format in (
        "polygon",
        "bitmask",
    ), f"mask_format is 'polygon' or 'bitmask', got {mask_format!r}"
    boxes = [
        BoxMode.convert([float(v) for v in a["bbox"]], a["bbox_mode"], BoxMode.XYXY_ABS)
        for a in annos
    ]
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor([int(a["category_id"]) for a in annos], dtype=torch.int64)

    if annos and "segmentation" in annos[0]:
        segmentations = [a["segmentation"] for a in annos]
        if mask_format == "bitmask":
            masks = np.stack([_to_bitmask(s, tuple(image_size)) for s in segmentations])
            instances.gt_masks = BitMasks(torch.from_numpy(masks))
        else:
            other = [type(s) for s in segmentations if not isinstance(s, list)]
            if other:
                raise ValueError(
                    f"mask_format 'polygon' needs polygons, got {other[0]}; use mask_format "
                    "'bitmask' for datasets with run-length masks"
                )
            instances.gt_masks = PolygonMasks(segmentations)
    return instances


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Instances | tuple[Instances, torch.Tensor]:
    """
    Drop instances that have no extent.

    Args:
        by_box: drop boxes with a side of at most `box_threshold` pixels.
        by_mask: drop empty masks, where there are `gt_masks`.
        return_mask: also return which instances were kept.

    Returns:
        The kept instances, or (kept instances, (n,) bool).
    """
    assert by_box or by_mask, "filter_empty_instances needs by_box or by_mask"
    keep = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        keep &= instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        keep &= instances.gt_masks.nonempty()
    return (instances[keep], keep) if return_mask else instances[keep]


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Resizing (and flipping in training) as `cfg.INPUT` describes it."""
    options = cfg.INPUT
    if not is_train:
        return [T.ResizeShortestEdge(options.MIN_SIZE_TEST, options.MAX_SIZE_TEST)]
    resize = T.ResizeShortestEdge(
        options.MIN_SIZE_TRAIN, options.MAX_SIZE_TRAIN, options.MIN_SIZE_TRAIN_SAMPLING
    )
    if options.RANDOM_FLIP == "none":
        return [resize]
    if options.RANDOM_FLIP not in ("horizontal", "vertical"):
        raise ValueError(
            "INPUT.RANDOM_FLIP is 'horizontal', 'vertical' or 'none', got "
            f"{options.RANDOM_FLIP!r}"
        )
    horizontal = options.RANDOM_FLIP == "horizontal"
    return [resize, T.RandomFlip(horizontal=horizontal, vertical=not horizontal)]


def get_fed_loss_cls_weights(
    dataset_names: str | list[str], freq_weight_power: float = 1.0
) -> torch.Tensor:
    """
    Sampling weights of the classes for the federated loss (Zhou et al., CenterNet2, 2021).

    Args:
        dataset_names: LVIS-style datasets with equal class frequencies.
        freq_weight_power: p in weight = (images that show the class) ** p.

    Returns:
        (num_classes,) float32.
    """
    names = [dataset_names] if isinstance(dataset_names, str) else list(dataset_names)
    for name in names:
        if "class_image_count" not in MetadataCatalog.get(name).as_dict():
            DatasetCatalog.get(name)  # the counts come with the annotation file
    check_metadata_consistency("class_image_count", names)
    counts = MetadataCatalog.get(names[0]).class_image_count
    ordered = [c["image_count"] for c in sorted(counts, key=lambda c: c["id"])]
    return torch.tensor(ordered, dtype=torch.float32) ** freq_weight_power
