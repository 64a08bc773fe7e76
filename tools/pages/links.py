"""Links of Markdown pages: whether files and headings that they lead to are there."""

import re
from pathlib import Path
from urllib.parse import urlsplit

_CODE = re.compile(r"(?ms)^ *(```|~~~).*?^ *\1|`[^`\n]*`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"(?m)^#{1,6} +(.+?) *#*$")


def links_of(page: Path) -> list[str]:
    """The targets of all links and images of a page."""
    return _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))


def problem_of(page: Path, link: str) -> str | None:
    """What is wrong with a link of a page, if anything.

    Addresses elsewhere have to be well-formed; whether they answer is not looked at.
    """
    parts = urlsplit(link)
    if parts.scheme or link.startswith("//"):
        if parts.scheme == "mailto":
            return None
        good = parts.scheme in ("http", "https") and "." in (parts.hostname or "")
        return None if good else f"{link} is no address"
    target = page.parent / parts.path if parts.path else page
    if not target.exists():
        return f"{link}: there is no {parts.path}"
    if parts.fragment and target.suffix == ".md" and parts.fragment not in anchors_of(target):
        return f"{link}: {target.name} has no heading for #{parts.fragment}"
    return None


def anchors_of(page: Path) -> set[str]:
    """What the headings of a page are called in addresses."""
    text = re.sub(r"(?ms)^ *(```|~~~).*?^ *\1", "", page.read_text(encoding="utf-8"))
    anchors: set[str] = set()
    for heading in _HEADING.findall(text):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = 1
        while name in anchors:  # the second heading of a name
            name = f"{name.removesuffix(f'-{count - 1}')}-{count}"
            count += 1
        anchors.add(name)
    return anchors
