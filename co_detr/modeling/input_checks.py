"""Says what is wrong with a picture or its annotations, as handed to a model or to a predictor."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor


@dataclass(frozen=True)
class Form:
    """What is wanted of a picture, and what to do about usual mistakes.

    Attributes:
        kind: the type.
        wanted: in words.
        channel_axis: 0 or 2.
        batch, gray, moved, alpha: remedies for several pictures at once, one channel, channels at
            the other end, and a fourth channel.
    """

    kind: type
    wanted: str
    channel_axis: int
    batch: str
    gray: str
    moved: str
    alpha: str


TENSOR = Form(
    Tensor,
    "a tensor (3, H, W) with values from 0 to 255, uint8 or floating-point",
    channel_axis=0,
    batch="for a batch pass a list with a dict for each picture",
    gray="of a gray picture, repeat the channel: image.expand(3, -1, -1)",
    moved="the channels go first: image.permute(2, 0, 1)",
    alpha="leave the alpha channel out: image[:3]",
)
ARRAY = Form(
    np.ndarray,
    "an array (H, W, 3), BGR, with values from 0 to 255, uint8 or floating-point",
    channel_axis=2,
    batch="pass one picture at a time",
    gray="of a gray picture, repeat the channel: cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)",
    moved="the channels go last: image.transpose(1, 2, 0)",
    alpha="leave the alpha channel out: image[:, :, :3]",
)
RGB_ARRAY = replace(
    ARRAY,
    wanted="an array (H, W, 3), RGB, with values from 0 to 255, uint8 or floating-point",
    batch="pass a list of pictures",
    gray="of a gray picture, repeat the channel: np.stack([image] * 3, axis=2)",
)
NO_BRIGHTNESS = "pass brightness, not a mask or a spectrum"

# Interpolation may overshoot the range of a picture by about a tenth.
OVERSHOOT = 32


def check_images(batched_inputs: list[dict], values: bool) -> None:
    """Look at the pictures of a batch before the model does.

    Types and shapes are free to look at. Values are looked at only where that makes no device wait:
    on the CPU. A picture of 8 bits cannot have wrong ones.

    Args:
        batched_inputs: as the model takes them.
        values: whether to look at values, too.

    Raises:
        TypeError: the batch is no list of dicts, or a picture no tensor of real numbers.
        ValueError: a picture has another shape or range than `TENSOR` wants.
    """
    if not isinstance(batched_inputs, list | tuple) or not all(
        isinstance(x, dict) and "image" in x for x in batched_inputs
    ):
        raise TypeError(
            'the model takes a list of dicts, one a picture: [{"image": tensor, "height": ..., '
            f'"width": ...}}], got {described(batched_inputs)}'
        )
    for index, x in enumerate(batched_inputs):
        problem = tensor_problem(x["image"])
        if problem is None and values and x["image"].device.type == "cpu":
            problem = values_problem(x["image"])
        _refuse(problem, _place(index, x, '["image"]'), x["image"], TENSOR)


def check_instances(batched_inputs: list[dict], num_classes: int) -> None:
    """Look at the labels and boxes of training examples before the model does.

    As with pictures, values are looked at only on the CPU. A box may be empty.

    Args:
        batched_inputs: as the model takes them in training.
        num_classes: labels are below it.

    Raises:
        TypeError: "instances" are no `Instances` with a tensor of labels and `Boxes`.
        ValueError: labels or boxes have another dtype or shape, a label is none of the model's, or
            a box is not finite or has its corners swapped.
    """
    # As arrays: what counts waits on a CPU would take tensors for the device's.
    on_host: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for index, x in enumerate(batched_inputs):
        if wrong_field := instances_problem(x["instances"]):
            field, value, wanted = wrong_field
            error = ValueError if isinstance(value, Tensor) else TypeError
            place = _place(index, x, f'["instances"]{field}')
            raise error(f"{place} is {described(value)}, wanted {wanted}")
        labels, boxes = x["instances"].gt_classes, x["instances"].gt_boxes.tensor
        if labels.device.type == boxes.device.type == "cpu":
            on_host[index] = labels.numpy(), boxes.detach().float().numpy()
    if not on_host:
        return
    all_labels, all_boxes = map(np.concatenate, zip(*on_host.values()))
    if objects_problem(all_labels, all_boxes, num_classes) is None:
        return
    for index, objects in on_host.items():
        if wrong_object := objects_problem(*objects, num_classes):
            field, problem = wrong_object
            place = _place(index, batched_inputs[index], f'["instances"]{field}')
            raise ValueError(f"{place} is {problem}")


def check_array(image: np.ndarray, form: Form = ARRAY) -> None:
    """Look at what is given to `DefaultPredictor`, or in another form of an array.

    Raises:
        TypeError: it is no array of real numbers.
        ValueError: it has another shape or range than the form wants.
    """
    problem = array_problem(image, form)
    if problem is None and image.dtype != np.uint8:
        problem = values_problem(torch.as_tensor(image.astype(np.float64)))
    _refuse(problem, "the picture", image, form)


def tensor_problem(image: Any) -> str | None:
    """What to do about the type or shape of the model's input; None if all is well."""
    if not isinstance(image, Tensor):
        return "make one by torch.as_tensor(np.ascontiguousarray(array.transpose(2, 0, 1)))"
    if image.dtype == torch.bool or image.dtype.is_complex:
        return NO_BRIGHTNESS
    return shape_problem(tuple(image.shape), TENSOR)


def array_problem(image: Any, form: Form = ARRAY) -> str | None:
    """What to do about the type or shape of an array; None if all is well."""
    if image is None:
        return "cv2.imread returns None where it cannot read a file"
    if isinstance(image, Tensor):
        return "pass tensor.permute(1, 2, 0).cpu().numpy()"
    if not isinstance(image, np.ndarray):
        return "read a file by co_detr.data.read_picture(path, 'BGR')"
    return NO_BRIGHTNESS if image.dtype.kind not in "uif" else shape_problem(image.shape, form)


def instances_problem(objects: Any) -> tuple[str, Any, str] | None:
    """Which field of annotations has the wrong type, dtype or shape, its value, and what is wanted
    instead; None if all is well."""
    if not isinstance(objects, Instances):
        return "", objects, "are Instances: detection_utils.annotations_to_instances makes them"
    fields = objects.get_fields()
    labels, boxes = fields.get("gt_classes"), fields.get("gt_boxes")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
        wanted = "is a tensor (n,) of int64: torch.as_tensor(labels, dtype=torch.int64)"
        return ".gt_classes", labels, wanted
    if not isinstance(boxes, Boxes):
        return ".gt_boxes", boxes, "are Boxes, (x1, y1, x2, y2) in pixels: Boxes(boxes)"
    corners = boxes.tensor
    if corners.shape != (len(labels), 4) or not corners.is_floating_point():
        wanted = f"are floating-point numbers of shape {(len(labels), 4)}, a box for each label"
        return ".gt_boxes.tensor", corners, wanted
    return None


def objects_problem(
    labels: np.ndarray, boxes: np.ndarray, num_classes: int
) -> tuple[str, str] | None:
    """Where the first label of (n,) or box of (n, 4) stands that cannot be one, and what it is and
    what is wanted; None if all is well."""
    known = (labels >= 0) & (labels < num_classes)
    regular = (boxes[:, :2] <= boxes[:, 2:]).all(axis=1) & np.isfinite(boxes).all(axis=1)
    broken = ~(known & regular)
    if not broken.any():
        return None
    number = int(broken.argmax())
    if known[number]:
        return f".gt_boxes[{number}]", (
            f"{boxes[number].tolist()}, wanted are finite pixels (x1, y1, x2, y2), x1 <= x2 and "
            "y1 <= y2: mend the annotation, or leave the object out; if it is (x, y, width, "
            "height), its bbox_mode is BoxMode.XYWH_ABS"
        )
    remedy = "set model.num_classes to the number of classes of the data, and count them from 0"
    if labels[number] < 0:
        remedy = "leave out what belongs to none of them"
    return f".gt_classes[{number}]", (
        f"{labels[number]}, wanted is a label 0 to {num_classes - 1} of the model's {num_classes} "
        f"classes: {remedy}"
    )


def shape_problem(shape: tuple[int, ...], form: Form) -> str | None:
    """What to do about the shape of a picture; None if it is the wanted one."""
    if 0 in shape:
        return "it is empty"
    if len(shape) == 2:
        return form.gray
    if len(shape) == 4:
        return form.batch
    if len(shape) != 3:
        return "it needs height, width and three channels"
    channels, other_end = shape[form.channel_axis], shape[2 - form.channel_axis]
    if channels == 3:
        return None
    if channels == 1:
        return form.gray
    if other_end in (1, 3, 4):
        return form.moved
    return form.alpha if channels == 4 else "it needs three channels"


def values_problem(image: Tensor) -> str | None:
    """What to do about the values of a picture; None if all is well."""
    if image.dtype == torch.uint8:
        return None
    least, greatest = (value.item() for value in image.aminmax())
    found = f"it has values from {least:g} to {greatest:g}: "
    if not (math.isfinite(least) and math.isfinite(greatest)):
        return found + "only finite numbers are brightness"
    if least < 0 and greatest < OVERSHOOT:
        return found + "the mean is subtracted by the model, pass the picture as it was before"
    if 0 <= least and greatest <= 1:
        # those of a black picture are whole
        return None if bool((image == image.round()).all()) else found + "multiply by 255"
    if -OVERSHOOT <= least and greatest <= 255 + OVERSHOOT:
        return None
    is_16_bit = 0 <= least and greatest <= 65535
    return found + ("divide 16-bit values by 257" if is_16_bit else "scale or clamp them")


def _place(index: int, example: dict, path: str) -> str:
    """Name a part of an example of the batch, and the file that it is of."""
    name = f" ({example['file_name']})" if example.get("file_name") else ""
    return f"batched_inputs[{index}]{path}{name}"


def _refuse(problem: str | None, where: str, image: Any, form: Form) -> None:
    """Raise the error for a problem; without one do nothing."""
    if problem is not None:
        error = ValueError if isinstance(image, form.kind) else TypeError
        raise error(f"{where} is {described(image)}, wanted is {form.wanted}: {problem}")


def described(value: Any) -> str:
    """Type, and where there are any, dtype and shape of a value."""
    if value is None:
        return "None"
    text = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
    if not isinstance(value, Tensor | np.ndarray):
        return text
    return f"a {text} of {value.dtype} and shape {tuple(value.shape)}"
