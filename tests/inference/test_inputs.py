"""Which files count as pictures, for what is predicted on and for data sets alike."""

from co_detr.data.formats.pictures import pictures_in
from co_detr.inference.inputs import find_pictures, picture_suffixes


def test_a_file_counts_once_by_whatever_path(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()
    monkeypatch.chdir(tmp_path)
    inputs = ["a.png", str(tmp_path / "a.png"), "../" + tmp_path.name, "*.png"]
    assert [str(path) for path in find_pictures(inputs)[0]] == ["a.png"]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    """As macOS writes them, and tools that keep previews."""
    for name in ("a.png", "._a.png", ".previews/b.png", "more/c.png", "more/._c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, skipped = find_pictures([str(tmp_path)], recursive=True)
    assert found == pictures_in(tmp_path) == [tmp_path / "a.png", tmp_path / "more/c.png"]
    assert skipped["hidden"] == 2
    # whoever names one means it
    assert find_pictures([str(tmp_path / ".previews")])[0] == [tmp_path / ".previews/b.png"]


def test_what_other_programs_would_draw_is_no_picture():
    assert not {".eps", ".ps", ".iim"} & picture_suffixes()
