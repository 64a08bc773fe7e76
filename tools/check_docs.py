#!/usr/bin/env python
"""Run the commands and the Python of the pages, from the pages themselves.

    python tools/check_docs.py                      # README.md, MODEL_ZOO.md, docs/, ...
    python tools/check_docs.py docs/deploy.md       # one page
    python tools/check_docs.py --list               # what is run and what is not, and why

Each page has a folder of its own, with small data and a small detector (`tools/pages/scene.py`). A
block that fails fails the command; one that is not run says why just above it
(`tools/pages/blocks.py`). What is not run is read all the same, by tests/tools/test_check_docs.py.
"""

import argparse
import collections
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pages.blocks import Block, blocks_of, pages
from pages.scene import Scene

LIMIT = 900  # seconds for a block
TAIL = 40  # lines of the output of a block that failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="by default all")
    parser.add_argument("--list", action="store_true", help="list the blocks and run nothing")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where to run, kept afterwards")
    parser.add_argument(
        "--detector", type=Path, metavar="FILE", help="instead of training the small detector"
    )
    args = parser.parse_args()
    chosen = [page.resolve() for page in args.pages] or pages()
    blocks = {page: [b for b in blocks_of(page) if b.is_shell or b.is_python] for page in chosen}
    if args.list:
        for block in (block for page in chosen for block in blocks[page]):
            print(f"{block.place:32} {_what(block)}")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        detector = args.detector and args.detector.resolve()
        return 0 if run(blocks, Scene(folder.resolve(), detector)) else 1


def run(blocks: dict[Path, list[Block]], scene: Scene) -> bool:
    """Run blocks page by page; says how it went, and returns whether it went well."""
    start = time.monotonic()
    if any(block.not_run is None for page in blocks.values() for block in page):
        scene.prepare()
        print(f"data and a detector made in {time.monotonic() - start:.0f} s", flush=True)
    count: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    for page, of_page in blocks.items():
        place = scene.folder_of(page)
        for block in of_page:
            if block.not_run is not None:
                reasons[block.not_run] += 1
                continue
            kind = "file" if block.title else "ran"
            count[kind if _run_block(block, place, scene) else "failed"] += 1
    minutes = (time.monotonic() - start) / 60
    print(
        f"{count['ran']} blocks ran, {count['file']} were written to files, {count['failed']} "
        f"failed; {reasons.total()} are not run; {minutes:.1f} minutes"
    )
    for reason, number in reasons.most_common():
        print(f"  not run: {number} x {reason}")
    return not count["failed"]


def _run_block(block: Block, folder: Path, scene: Scene) -> bool:
    if block.title:
        path = folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text_to_run())
        print(f"{block.place:32} written to {block.title}", flush=True)
        return True
    shell = ["bash", "-euo", "pipefail", "-c"]
    start = time.monotonic()
    try:
        done = subprocess.run(
            [*([sys.executable, "-c"] if block.is_python else shell), block.text_to_run()],
            cwd=folder,
            env=scene.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
        )
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        code, output = f"no end after {LIMIT} s", (error.stdout or b"").decode()
    how = "ok" if code == 0 else f"FAILED ({code})"
    print(f"{block.place:32} {how}, {time.monotonic() - start:.0f} s", flush=True)
    if code != 0:
        print("".join(f"    {line}\n" for line in output.splitlines()[-TAIL:]), flush=True)
    return code == 0


def _what(block: Block) -> str:
    if block.not_run is not None:
        return f"not run: {block.not_run}"
    if block.title:
        return f"written to {block.title}"
    changes = "".join(f"; {old!r} => {new!r}" for old, new in block.changes)
    return f"run as {'Python' if block.is_python else 'shell commands'}{changes}"


if __name__ == "__main__":
    sys.exit(main())
