"""
Random augmentations as a policy that looks at its input and returns a deterministic `Transform`.

The split makes every random choice available to more data than the image: boxes, polygons and
masks are transformed afterwards by what the augmentation returned.
"""

import inspect
import pprint
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = [
    "Augmentation",
    "AugmentationList",
    "AugInput",
    "apply_augmentations",
    "apply_transform_gens",
]


def _input_names(get_transform: Any) -> tuple[str, ...]:
    """Names of the input attributes that a `get_transform` method asks for by its parameters."""
    parameters = list(inspect.signature(get_transform).parameters.values())
    if len(parameters) == 1:  # a lone parameter is the image, whatever its name
        return ("image",)
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(
                f"{get_transform.__qualname__} takes {parameter}; name the input attributes it "
                "needs one by one, for example get_transform(self, image, boxes)"
            )
    return tuple(parameter.name for parameter in parameters)


class Augmentation:
    """
    Base class of augmentations. Subclasses define `get_transform`.

    Its parameters name the attributes of the `AugInput` it wants to see, for example
    `get_transform(self, image, boxes)`. Randomness comes from numpy's global generator.

    Attributes:
        input_args: these names, where the parameters are called otherwise; None to go by them.
    """

    input_args: tuple[str, ...] | None = None

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Store a constructor's `locals()` as attributes."""
        for key, value in (params or {}).items():
            if key != "self" and not key.startswith("_"):
                setattr(self, key, value)

    def get_transform(self, *args: Any) -> Transform:
        """Draw a transform for the given input attributes."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_transform")

    def __call__(self, aug_input: Any) -> Transform:
        """Draw a transform, apply it to `aug_input` in place and return it."""
        values = []
        names = self.input_args
        for name in _input_names(self.get_transform) if names is None else names:
            if not hasattr(aug_input, name):
                raise AttributeError(
                    f"{type(self).__name__}.get_transform asks for {name!r}, which the "
                    f"{type(aug_input).__name__} does not have; set that attribute first"
                )
            values.append(getattr(aug_input, name))
        transform = self.get_transform(*values)
        assert isinstance(
            transform, Transform
        ), f"{type(self).__name__}.get_transform must return a Transform, got {transform!r}"
        aug_input.transform(transform)
        return transform

    def _rand_range(
        self, low: float = 1.0, high: float | None = None, size: Sequence[int] | None = None
    ) -> Any:
        """Uniform numbers in [low, high), or in [0, low) without `high`."""
        if high is None:
            low, high = 0, low
        return np.random.uniform(low, high, size)

    def __repr__(self) -> str:
        fields = {k: v for k, v in vars(self).items() if not k.startswith("_")}
        shown = ", ".join(f"{name}={pprint.pformat(value)}" for name, value in fields.items())
        return f"{type(self).__name__}({shown})"


class _FixedAugmentation(Augmentation):
    """A transform in the role of an augmentation that always draws it."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def get_transform(self, image: np.ndarray) -> Transform:
        return self.transform

    def __repr__(self) -> str:
        return repr(self.transform)


def as_augmentation(member: Augmentation | Transform) -> Augmentation:
    """Wrap a transform as an augmentation; raises AssertionError for anything else."""
    assert isinstance(
        member, (Augmentation, Transform)
    ), f"an augmentation or a transform is needed, got {member!r}"
    return member if isinstance(member, Augmentation) else _FixedAugmentation(member)


class AugmentationList(Augmentation):
    """Augmentations one after the other; each sees what the ones before it produced."""

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        super().__init__()
        self.augs = [as_augmentation(member) for member in augs]

    def __call__(self, aug_input: Any) -> TransformList:
        return TransformList([augmentation(aug_input) for augmentation in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(repr, self.augs))}]"


class AugInput:
    """
    An image with what belongs to it, to be changed in place by augmentations.

    Attributes:
        image: (h, w) or (h, w, C), uint8 in [0, 255] or floats.
        boxes: (n, 4) absolute XYXY floats, or None.
        sem_seg: (h, w) labels, or None.

    Further attributes may be set; augmentations can ask for them, but `transform` leaves them.
    """

    def __init__(
        self,
        image: np.ndarray,
        *,
        boxes: np.ndarray | None = None,
        sem_seg: np.ndarray | None = None,
    ) -> None:
        assert isinstance(image, np.ndarray), f"an image is a numpy array, got {type(image)}"
        assert image.dtype == np.uint8 or np.issubdtype(
            image.dtype, np.floating
        ), f"an image holds uint8 or floats, got {image.dtype}"
        assert image.ndim in (2, 3), f"an image is (h, w) or (h, w, C), got shape {image.shape}"
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply a transform to the image, the boxes and the labels."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(
        self, augmentations: Sequence[Augmentation | Transform]
    ) -> TransformList:
        """The same as `AugmentationList(augmentations)(self)`."""
        return AugmentationList(augmentations)(self)


def apply_augmentations(
    augmentations: Sequence[Augmentation | Transform], inputs: np.ndarray | AugInput
) -> tuple[Any, TransformList]:
    """
    Apply augmentations to an image or an `AugInput`.

    Returns:
        The augmented image (or the given `AugInput`, changed in place) and the transforms drawn.
    """
    if isinstance(inputs, np.ndarray):
        image_only = AugInput(inputs)
        transforms = image_only.apply_augmentations(augmentations)
        return image_only.image, transforms
    return inputs, inputs.apply_augmentations(augmentations)


apply_transform_gens = apply_augmentations
