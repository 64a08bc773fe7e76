"""Which detectron2 is used: what counts as an installed one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def origin(folder, before="", after="print(co_detr.detectron2_origin())"):
    """What a process says that is started in `folder` and knows of no other detectron2."""
    code = f"import sys; sys.path.append({str(ROOT)!r}); {before}\nimport co_detr; {after}"
    # without the packages that are installed here, among which there may be a detectron2
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, ''); {code}"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def package(folder, version="0.6", compiled=True):
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(f'__version__ = "{version}"\n')
    if compiled:
        (folder / "_C.py").touch()
    return folder


EMBEDDED = f"embedded ({ROOT / 'co_detr' / 'fallback' / 'detectron2'})"


def test_without_another_one_it_is_the_embedded(tmp_path):
    assert origin(tmp_path) == EMBEDDED


@pytest.mark.parametrize("before", ["", "import detectron2"])
def test_a_folder_of_that_name_is_no_detectron2(tmp_path, before):
    """As in a folder that upstream's source code was cloned into."""
    package(tmp_path / "detectron2" / "detectron2")
    assert origin(tmp_path, before) == EMBEDDED
    assert origin(tmp_path, before, "from detectron2 import utils; print(utils.__name__)")


def test_a_package_of_that_name_is_upstream(tmp_path):
    folder = package(tmp_path / "detectron2")
    assert origin(tmp_path) == f"upstream 0.6 ({folder})"


def test_an_upstream_that_was_not_built_is_said(tmp_path):
    folder = package(tmp_path / "detectron2", version="0.7", compiled=False)
    assert origin(tmp_path) == f"upstream 0.7, not compiled ({folder})"


def test_an_editable_install_is_found_behind_a_folder_of_that_name(tmp_path):
    """`pip install -e` may install a finder, which Python asks after `sys.path`."""
    folder = package(tmp_path / "elsewhere" / "detectron2")
    (tmp_path / "here" / "detectron2").mkdir(parents=True)
    finder = f"""
from importlib.util import spec_from_file_location
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "detectron2":
            return spec_from_file_location(name, {str(folder / "__init__.py")!r})
sys.meta_path.append(Finder)
"""
    assert origin(tmp_path / "here", finder) == f"upstream 0.6 ({folder})"
