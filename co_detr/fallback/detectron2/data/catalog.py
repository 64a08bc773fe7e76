"""Two global tables: how to load each dataset, and what is known about it besides its records."""

import copy
import logging
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any

__all__ = ["DatasetCatalog", "MetadataCatalog", "Metadata"]


class _DatasetCatalog(UserDict):
    """Dataset name -> function without arguments that returns the records (`list[dict]`)."""

    def register(self, name: str, func: Callable[[], Any]) -> None:
        """Remember how to load `name`; the function is called at every `get`, not now.

        Raises AssertionError where `func` is no callable or the name is taken.
        """
        assert callable(func), f"dataset {name!r} needs a function that loads it, got {func!r}"
        assert (
            name not in self.data
        ), f"dataset {name!r} is already registered; call DatasetCatalog.remove({name!r}) first"
        self.data[name] = func

    def get(self, name: str) -> Any:
        """Load the dataset; raises KeyError, listing the known names, for an unknown one."""
        if name not in self.data:
            known = ", ".join(sorted(self.data))
            raise KeyError(f"dataset {name!r} is not registered; registered are: {known}")
        return self.data[name]()

    def remove(self, name: str) -> None:
        """Forget the dataset; raises KeyError where it is not registered."""
        self.data.pop(name)

    def __repr__(self) -> str:
        return f"DatasetCatalog({', '.join(self.data)})"

    # Last of the methods: below this line the name `list` means the method.
    def list(self) -> list[str]:
        """Names of all registered datasets."""
        return [*self.data]


class Metadata(types.SimpleNamespace):
    """
    Facts about one dataset as attributes (`thing_classes`, `json_file`, `evaluator_type`, ...).

    Every attribute is written once: setting it again is fine with an equal value and an
    AssertionError with another, since models, loaders and evaluators must agree on it. Delete
    the attribute to replace it.
    """

    # Replaced per instance. It also keeps `__getattr__` away from `name`, which its message uses.
    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        known = sorted(self.__dict__)
        raise AttributeError(
            f"the metadata of dataset {self.name!r} has no attribute {key!r}, only {known}; "
            "some attributes appear once the dataset is loaded with DatasetCatalog.get"
        )

    def __setattr__(self, key: str, value: Any) -> None:
        missing = object()
        old = self.__dict__.get(key, missing)
        assert old is missing or old == value, (
            f"{key!r} of dataset {self.name!r} is already {old!r} and cannot become {value!r}; "
            f"delete the attribute first to replace it"
        )
        if old is missing:
            super().__setattr__(key, value)

    def as_dict(self) -> dict[str, Any]:
        """All attributes, the name included, as a new dict."""
        return copy.copy(self.__dict__)

    def set(self, **attributes: Any) -> "Metadata":
        """Set several attributes under the rules of assignment; returns itself for chaining."""
        for key, value in attributes.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute, or `default` where it is not set."""
        return self.__dict__.get(key, default)


class _MetadataCatalog(UserDict):
    """Dataset name -> the one `Metadata` object of that name."""

    def get(self, name: str) -> Metadata:
        """The metadata of `name`, created empty on first use."""
        assert name, "a dataset name must not be empty"
        if name not in self.data:
            self.data[name] = Metadata(name=name)
        return self.data[name]

    def remove(self, name: str) -> None:
        """Forget the metadata; raises KeyError where there is none of that name."""
        self.data.pop(name)

    def __repr__(self) -> str:
        return f"MetadataCatalog({', '.join(self.data)})"

    def list(self) -> list[str]:
        """Names that have metadata."""
        return [*self.data]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()


def check_metadata_consistency(key: str, names: list[str]) -> None:
    """
    Check that an attribute has one value over several datasets.

    Raises AttributeError where a dataset lacks it, ValueError where two differ.
    """
    reference = getattr(MetadataCatalog.get(names[0]), key)
    for name in names[1:]:
        value = getattr(MetadataCatalog.get(name), key)
        if value != reference:
            logging.getLogger(__name__).error(f"{key} of {names[0]}: {reference}")
            logging.getLogger(__name__).error(f"{key} of {name}: {value}")
            raise ValueError(
                f"datasets {names[0]!r} and {name!r} disagree on {key!r} and cannot be combined"
            )
