"""The page of a check, where something is unusual."""

import json
import os
import subprocess
import sys
from pathlib import Path

from co_detr.cli import main

ROOT = Path(__file__).parents[2]


def test_a_picture_that_a_quick_look_takes_for_whole_is_named(coco_folder, tmp_path):
    picture = coco_folder / "train/a.png"
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) // 2])
    words = ["check", str(coco_folder), "--quick", "--page", str(tmp_path / "pets.html")]
    assert main(words) == 0
    text = (tmp_path / "pets.html").read_text()
    assert text.count("<img src='data:image/jpeg;base64,") == 1
    assert f"<figcaption class='fault'>{picture} cannot be read: " in text


def test_the_page_is_in_the_encoding_that_it_declares(coco_folder, tmp_path):
    """Whatever the locale, of which ASCII is the smallest."""
    for split in ("train", "valid"):
        file = coco_folder / split / "_annotations.coco.json"
        file.write_text(file.read_text().replace('"dog"', json.dumps("vögel")))
    words = ["check", str(coco_folder), "--page", str(tmp_path / "pets.html")]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    locale["PYTHONIOENCODING"] = "utf-8"  # of what is printed
    process = [sys.executable, "-m", "co_detr", *words]
    done = subprocess.run(process, cwd=ROOT, env=os.environ | locale, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    text = (tmp_path / "pets.html").read_bytes().decode("utf-8")
    assert "<meta charset='utf-8'>" in text and "<td>vögel" in text
