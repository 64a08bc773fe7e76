"""Ids and numbers of annotation files, whatever type they were written in."""

import math
from collections.abc import Callable
from typing import Any, SupportsFloat


def common_type(ids: list, references: list, prefer_numbers: bool) -> Callable[[Any], Any]:
    """How to read ids: as they are, as numbers, or as text, so that all have one type.

    Text stays text where it is used throughout, unless numbers are preferred: then the order of
    "10" and "9" is that of the numbers.
    """
    numbers = [as_number(value) for value in ids]
    readable = all(type(n) is int for n in numbers) and len(set(numbers)) == len(set(ids))
    if all(type(value) is str for value in ids) and not prefer_numbers:
        readable = readable and not all(type(value) is str for value in references)
    return as_number if readable else as_text


def as_number(value: Any) -> Any:
    """The whole number that a value is or spells; else the value."""
    if isinstance(value, str):
        try:
            return int(value) if value.strip() == value and "_" not in value else value
        except ValueError:
            return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_text(value: Any) -> Any:
    return str(as_number(value)) if isinstance(value, int | float) else value


def number_in(value: Any) -> float | int | None:
    """The finite number that a value is or spells; None for all else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if is_finite(value) else None


def is_finite(value: SupportsFloat) -> bool:
    """Whether a number is one that computing in floats can end in: no whole number beyond them."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
