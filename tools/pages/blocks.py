"""The blocks of code in Markdown pages, and what the pages say of running them.

A block is run as it stands: shell commands where the language is bash, console (its lines after
`$ `) or none, Python where it is python. A block with a title, as in ```python title="birds.py"```,
is the content of that file. Comments just above a block, which readers do not see, say otherwise:

    <!-- not run: needs COCO -->                        why it is not run
    <!-- run: train birds.py => train birds.py train.max_iter=20 -->      what is replaced in it
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHELL = ("", "bash", "sh", "console")

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>[\w-]*) *(?P<rest>.*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_NOT_RUN = re.compile(r"^ *<!-- not run: (.+) -->$")
_CHANGE = re.compile(r"^ *<!-- run: (.+) => (.*) -->$")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page, line: where its first line is, counted from 1.
        language: the first word after the fence, "" if there is none.
        title: the file that it is the content of, or None.
        text: its lines, without the indentation of the fence.
        not_run: why it is not run; None if it is.
        changes: pairs of text and what stands for it when the block is run.
    """

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    not_run: str | None
    changes: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> str:
        """For messages: docs/start.md:12."""
        page = self.page
        return f"{page.relative_to(ROOT) if page.is_relative_to(ROOT) else page}:{self.line}"

    @property
    def is_shell(self) -> bool:
        return self.language in SHELL

    @property
    def is_python(self) -> bool:
        return self.language == "python"

    def shell_text(self) -> str:
        """The commands, without prompts and output, as they stand on the page."""
        if self.language != "console":
            return self.text
        lines = self.text.splitlines()
        return "".join(line[2:] + "\n" for line in lines if line.startswith("$ "))

    def text_to_run(self) -> str:
        """What is run: with its changes.

        Raises:
            ValueError: a text that is to be replaced is not there.
        """
        text = self.shell_text() if self.is_shell else self.text
        for old, new in self.changes:
            if old not in text:
                raise ValueError(f"{self.place}: there is no {old!r} to replace")
            text = text.replace(old, new)
        return text


def pages(root: Path = ROOT) -> list[Path]:
    """All pages: those of the repository, then those of docs/ in alphabetical order."""
    top = [root / name for name in ("README.md", "MODEL_ZOO.md", "CHANGELOG.md")]
    top.append(root / "datasets" / "README.md")
    return [page for page in top if page.is_file()] + sorted((root / "docs").rglob("*.md"))


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in their order.

    Raises:
        ValueError: a block does not end.
    """
    return list(_blocks(page))


def _blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        if opening is None:
            number += 1
            continue
        start = number
        indent, fence = len(opening["indent"]), opening["fence"]
        inside = []
        number += 1
        while number < len(lines) and lines[number].strip() != fence:
            inside.append(lines[number][indent:])
            number += 1
        if number == len(lines):
            raise ValueError(f"{page}:{start + 1}: a block without an end")
        number += 1
        not_run, changes = _comments_above(lines[:start])
        title = _TITLE.search(opening["rest"])
        yield Block(
            page=page,
            line=start + 1,
            language=opening["language"],
            title=title and title[1],
            text="".join(line + "\n" for line in inside),
            not_run=not_run,
            changes=changes,
        )


def _comments_above(lines: list[str]) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    not_run, changes = None, []
    while lines and lines[-1].strip().startswith("<!--"):
        comment = lines[-1]
        lines = lines[:-1]
        if found := _NOT_RUN.match(comment):
            not_run = found[1]
        elif found := _CHANGE.match(comment):
            changes.insert(0, (found[1], found[2]))
    return not_run, tuple(changes)
