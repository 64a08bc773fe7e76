"""The objects of one image, as named fields of equal length."""

from __future__ import annotations

import itertools
from typing import Any

import torch

__all__ = ["Instances"]


class Instances:
    """Fields such as `gt_boxes` or `scores` with one entry for each object of an image.

    Fields are set and read as attributes. Names with a leading underscore are not fields.

    Args:
        image_size: (height, width) in pixels of the image that coordinates refer to.
        **kwargs: fields; anything with a length that can be indexed.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        # `_fields` itself is missing while an object is being unpickled
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"the instances have no field {name!r}")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Add or replace a field.

        Raises:
            AssertionError: if its length differs from that of the other fields.
        """
        length = len(value)
        if self._fields:
            assert (
                len(self) == length
            ), f"field {name!r} has length {length} but there are {len(self)} instances"
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Tell whether there is such a field."""
        return name in self._fields

    def get(self, name: str) -> Any:
        """Return a field.

        Raises:
            KeyError: if there is none of that name.
        """
        return self._fields[name]

    def remove(self, name: str) -> None:
        """Delete a field.

        Raises:
            KeyError: if there is none of that name.
        """
        del self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """Return the fields; changing the dict changes the instances."""
        return self._fields

    def to(self, *args, **kwargs) -> Instances:
        """Return instances whose fields went through their own `to`, if they have one."""
        moved = Instances(self._image_size)
        for name, value in self._fields.items():
            moved.set(name, value.to(*args, **kwargs) if hasattr(value, "to") else value)
        return moved

    def __getitem__(self, item: int | slice | torch.Tensor) -> Instances:
        """Select objects in every field: by integer (one object), slice, indices or mask."""
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"index {item} is out of range for {len(self)} instances")
            item = slice(item, None, len(self))  # a step that long keeps a single object
        selected = Instances(self._image_size)
        for name, value in self._fields.items():
            selected.set(name, value[item])
        return selected

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("instances without fields have no length")

    def __iter__(self):
        raise NotImplementedError("instances cannot be iterated; iterate one of the fields")

    @staticmethod
    def cat(instance_lists: list[Instances]) -> Instances:
        """Join the objects of several `Instances` with the same fields and image size.

        Raises:
            AssertionError: if there is nothing to join, or the image sizes differ.
            ValueError: for a field that is neither a tensor, a list, nor has a method `cat`.
        """
        assert len(instance_lists) > 0, "there are no instances to join"
        assert all(isinstance(i, Instances) for i in instance_lists), "only Instances can be joined"
        if len(instance_lists) == 1:
            return instance_lists[0]
        sizes = {tuple(i.image_size) for i in instance_lists}
        assert len(sizes) == 1, f"cannot join instances of images of different sizes {sizes}"
        joined = Instances(instance_lists[0].image_size)
        for name, first in instance_lists[0].get_fields().items():
            values = [i.get(name) for i in instance_lists]
            if isinstance(first, torch.Tensor):
                value = torch.cat(values)
            elif isinstance(first, list):
                value = list(itertools.chain(*values))
            elif hasattr(type(first), "cat"):
                value = type(first).cat(values)
            else:
                raise ValueError(
                    f"cannot join field {name!r} of type {type(first)}; "
                    "use a tensor, a list or a structure with a method `cat`"
                )
            joined.set(name, value)
        return joined

    def __repr__(self) -> str:
        number = len(self) if self._fields else 0
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        height, width = self._image_size
        return (
            f"Instances(num_instances={number}, image_height={height}, image_width={width}, "
            f"fields=[{fields}])"
        )
