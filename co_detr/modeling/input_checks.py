"""Says what is wrong with a picture that is handed to a model or to a predictor."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
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
            f'"width": ...}}], got {_described(batched_inputs)}'
        )
    for index, x in enumerate(batched_inputs):
        name = f" ({x['file_name']})" if x.get("file_name") else ""
        problem = tensor_problem(x["image"])
        if problem is None and values and x["image"].device.type == "cpu":
            problem = values_problem(x["image"])
        _refuse(problem, f'batched_inputs[{index}]["image"]{name}', x["image"], TENSOR)


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


def _refuse(problem: str | None, where: str, image: Any, form: Form) -> None:
    """Raise the error for a problem; without one do nothing."""
    if problem is not None:
        error = ValueError if isinstance(image, form.kind) else TypeError
        raise error(f"{where} is {_described(image)}, wanted is {form.wanted}: {problem}")


def _described(value: Any) -> str:
    """Type, and where there are any, dtype and shape of a value."""
    text = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
    if not isinstance(value, Tensor | np.ndarray):
        return text
    return f"a {text} of {value.dtype} and shape {tuple(value.shape)}"
