"""Text files of annotation tools."""

from pathlib import Path
from typing import Any

import yaml


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, without the mark that editors put in front of it.

    Raises:
        ValueError: its text is in another encoding.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error}): save it as UTF-8") from error


def load_yaml(file: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ValueError: it is no YAML, or a value is not what it seems to be, as the date 2024-13-45.
    """
    text = read_text(file)
    try:
        return yaml.safe_load(text)
    except Exception as error:  # what makes values of the text raises what it likes
        raise ValueError(f"{file} is no YAML file: {error}") from error
