"""What the site has from outside of docs/: pages of the repository, and files that pages link to.

In the repository a page may link to any file. On the site the target is a page where it is one of
`PAGES`, and otherwise a copy of the file as text. mkdocs calls the functions by their names.
"""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {
    "model_zoo.md": "MODEL_ZOO.md",
    "datasets.md": "datasets/README.md",
    "changelog.md": "CHANGELOG.md",
    "index.md": "README.md",  # on the site it is docs/index.md
}
COPIES = "source"  # folder of the site
# code, in which nothing is a link, or a link's start, target and anchor
_CODE_OR_LINK = re.compile(
    r"(?ms)^ *```.*?^ *```|(\[[^\]\n]*\]\()([^)#\s:]+)((?:#[^)\s]*)?\))|`[^`\n]*`"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of `PAGES`, and copies of the files that any page points to."""
    root = _root(config)
    for uri, source in PAGES.items():
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(root / source)))
    targets: dict[str, Path] = {}
    for page in files.documentation_pages():
        source = Path(page.abs_src_path)
        _with_links(
            source.read_text(), lambda link, source=source: _note(link, source, config, targets)
        )
    for uri, path in sorted(targets.items()):
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where their targets are on the site."""
    source = Path(page.file.abs_src_path)
    here = posixpath.dirname(page.file.src_uri)

    def moved(link: str) -> str:
        uri, _ = _place(link, source, config)
        return link if uri is None else posixpath.relpath(uri, here or ".")

    return _with_links(markdown, moved)


def _note(link: str, source: Path, config: MkDocsConfig, targets: dict[str, Path]) -> str:
    uri, path = _place(link, source, config)
    if uri is not None and uri.startswith(f"{COPIES}/"):
        targets[uri] = path
    return link


def _place(link: str, source: Path, config: MkDocsConfig) -> tuple[str | None, Path]:
    """Where the target of a link in a file is on the site, None where it is no file; and its path.

    What does not exist is left for mkdocs to complain about.
    """
    path = (source.parent / link).resolve()
    root, docs = _root(config), Path(config.docs_dir).resolve()
    if not path.is_file() or not path.is_relative_to(root):
        return None, path
    if path.is_relative_to(docs):
        return path.relative_to(docs).as_posix(), path
    name = path.relative_to(root).as_posix()
    pages = {origin: uri for uri, origin in PAGES.items()}
    return pages.get(name, f"{COPIES}/{name}.txt"), path


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).resolve().parent


def _with_links(markdown: str, change: Callable[[str], str]) -> str:
    """Replace the targets of all relative links."""

    def replace(found: re.Match) -> str:
        if found[1] is None:
            return found[0]
        return found[1] + change(found[2]) + found[3]

    return _CODE_OR_LINK.sub(replace, markdown)
