"""Files are whole or not there, and a full disk is named."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage, JSONWriter
from torch import nn

from co_detr.engine import WholeFileCheckpointer
from co_detr.engine.files import naming_full_disk, remove_partial_files, whole_file
from co_detr.engine.printer import FileWriter


@pytest.fixture
def little_room():
    """Files of this process end at 100 kB, as on a disk that is full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_has_its_name_only_when_it_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(str(path)) as file:
        file.write("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    with whole_file(str(path)) as file:
        file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]


def test_text_is_utf8_in_every_locale(tmp_path):
    code = "import sys; from co_detr.engine.files import whole_file\n"
    code += "with whole_file(sys.argv[1]) as file: file.write('v\\u00f6gel')"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # that is, ASCII
    process = [sys.executable, "-c", code, str(tmp_path / "file")]
    subprocess.run(process, cwd=Path(__file__).parents[2], env=os.environ | locale, check=True)
    assert (tmp_path / "file").read_bytes() == "vögel".encode()


def test_names_may_be_as_long_as_the_file_system_has_them(tmp_path):
    names = ["a" * 246, "a" * 251 + ".pth", "ä" * 125 + ".json", "b." + "c" * 253]
    partial = set()
    for name in names:
        with whole_file(str(tmp_path / name)) as file:
            partial |= set(os.listdir(tmp_path)) - set(names)
            file.write(name)
    assert sorted(os.listdir(tmp_path)) == sorted(names) and len(partial) == len(names)
    assert all((tmp_path / name).read_text() == name for name in names)

    # those left behind are found by their suffixes nevertheless
    for name in partial:
        (tmp_path / name).touch()
    remove_partial_files(str(tmp_path), ".pth")
    assert len(os.listdir(tmp_path)) == 2 * len(names) - 1


def test_a_checkpoint_without_room_is_named_with_its_disk_and_the_old_one_stays(
    tmp_path, little_room
):
    small, large = nn.Linear(10, 10), nn.Linear(1000, 1000)
    WholeFileCheckpointer(small, str(tmp_path)).save("small")
    with pytest.raises(OSError) as caught:
        WholeFileCheckpointer(large, str(tmp_path)).save("large")
    # what torch raises says nothing of a disk
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "large.pth")
    assert "the disk at /" in str(caught.value) and "MiB free" in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "small.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "small.pth"
    assert len(torch.load(tmp_path / "small.pth", weights_only=True)["model"]) == 2


def test_a_full_disk_under_the_metrics_is_named():
    writer = FileWriter(JSONWriter("/dev/full"), "/dev/full")
    with EventStorage() as storage, pytest.raises(OSError) as caught:
        storage.put_scalar("total_loss", 1.0)
        writer.write()
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == "/dev/full"
    assert "No space left on device: the disk at /dev has " in str(caught.value)


def test_the_innermost_file_is_named_and_other_errors_pass():
    with pytest.raises(OSError) as caught, naming_full_disk("/outer"), naming_full_disk("/inner"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == "/inner"
    for error in (PermissionError(errno.EACCES, "Permission denied"), ValueError("no number")):
        with pytest.raises(type(error)) as caught, naming_full_disk("/outer"):
            raise error
        assert caught.value is error


def test_only_partial_files_of_the_kind_are_removed(tmp_path):
    names = [".a.pth.partial", ".b.json.partial", "c.pth.partial", ".d.pth", "e.pth"]
    for name in names:
        (tmp_path / name).touch()
    remove_partial_files(str(tmp_path), ".pth")
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])
