"""A folder in which the commands of a page are run, with the things that pages speak of.

There are the repository's files, as links; the digits in datasets/digits; `birds/`, pictures with
annotations in COCO format; `photo.jpg`, `folder/` and `shots/`; and `model_best.pth`, also called
`model_final.pth`, a detector of digits trained for a few iterations by a config of the zoo.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from .blocks import ROOT

MODEL = "co_dino/co_dino_digits"
ITERATIONS = 150
_LINKED = ("co_detr", "tools", "tests")
_COPIED = ("Makefile", "pyproject.toml", "setup.py", "constraints.txt", "README.md", "MODEL_ZOO.md")
_BIRDS = ("robin", "wren", "tit", "finch", "rook", "heron", "crane", "swift", "kite", "owl")


class Scene:
    """The things that all pages share, made once, and a folder for each page.

    Args:
        folder: an empty one.
        detector: a checkpoint of `MODEL` to take instead of training one.
    """

    def __init__(self, folder: Path, detector: Path | None = None):
        self.folder = folder
        self.detector = detector or folder / "shared" / "trained" / "model_final.pth"
        self.trained = detector is not None
        self.shared = folder / "shared"
        binaries = self.shared / "bin"
        binaries.mkdir(parents=True)
        (binaries / "co-detr").write_text(f'#!/bin/sh\nexec {sys.executable} -m co_detr "$@"\n')
        (binaries / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        for path in binaries.iterdir():
            path.chmod(0o755)
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            name: value for name, value in os.environ.items() if name != "DETECTRON2_DATASETS"
        } | {
            "PATH": f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": ":".join(filter(None, paths)),
            "HOME": str(self.shared),  # nothing of a user's own changes what commands do
        }

    def prepare(self) -> None:
        """Make the data and train the detector.

        Raises:
            subprocess.CalledProcessError: that went wrong; the output was shown.
        """
        digits = self.shared / "datasets" / "digits"
        if (known := Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "digits").is_dir():
            digits.parent.mkdir()
            digits.symlink_to(known.resolve())
        else:
            self._python(str(ROOT / "datasets/prepare_digits.py"))
        if not self.trained:
            self._train()
        self._make_birds(self.shared / "birds", digits)
        pictures = sorted((digits / "val").glob("*.png"))
        for name, chosen in (("folder", pictures[:3]), ("shots", pictures[3:5])):
            (self.shared / name).mkdir()
            for path in chosen:
                shutil.copy(path, self.shared / name)
        with Image.open(pictures[1]) as image:
            image.convert("RGB").save(self.shared / "photo.jpg", quality=95)

    def _train(self) -> None:
        self._python(
            *(str(ROOT / "tools/lazyconfig_train_net.py"), "--config-file", MODEL),
            *(
                "train.output_dir=trained",
                "dataloader.test.dataset.names=null",
                f"train.max_iter={ITERATIONS}",
            ),
        )

    def folder_of(self, page: Path) -> Path:
        """A new folder for the commands of a page."""
        folder = self.folder / page.relative_to(ROOT).as_posix().replace("/", "-")
        datasets = folder / "datasets"
        datasets.mkdir(parents=True)
        for name in _LINKED:
            (folder / name).symlink_to(ROOT / name)
        for name in _COPIED:  # what commands of pages may write to
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "configs", folder / "configs")
        for path in (ROOT / "datasets").iterdir():
            if path.is_file():
                (datasets / path.name).symlink_to(path)
        digits = self.shared / "datasets" / "digits"
        shutil.copytree(digits / "annotations", datasets / "digits" / "annotations")
        for split in ("train", "val"):
            (datasets / "digits" / split).symlink_to(digits / split)
        for name in ("birds", "folder", "shots"):
            shutil.copytree(self.shared / name, folder / name)
        shutil.copy(self.shared / "photo.jpg", folder)
        for name in ("model_best.pth", "model_final.pth"):
            (folder / name).symlink_to(self.detector)
        return folder

    def _python(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.shared,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            print(done.stdout)
            done.check_returncode()

    def _make_birds(self, folder: Path, digits: Path) -> None:
        """Digits that are called birds, in the folders of a COCO export: a split is a folder."""
        for split, source, count in (("train", "train", 64), ("valid", "val", 16)):
            content = json.loads((digits / "annotations" / f"instances_{source}.json").read_text())
            images = content["images"][:count]
            ids = {image["id"] for image in images}
            (folder / split).mkdir(parents=True)
            for image in images:
                shutil.copy(digits / source / image["file_name"], folder / split)
            for category, name in zip(content["categories"], _BIRDS):
                category["name"] = name
            annotations = [a for a in content["annotations"] if a["image_id"] in ids]
            content |= {"images": images, "annotations": annotations}
            (folder / split / "_annotations.coco.json").write_text(json.dumps(content))
