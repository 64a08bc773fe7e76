"""Text files of annotation tools."""

from pathlib import Path


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, without the mark that editors put in front of it.

    Raises:
        ValueError: its text is in another encoding.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error}): save it as UTF-8") from error
