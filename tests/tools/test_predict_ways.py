"""`co-detr predict` on videos, in tiles, repeatedly, and for labelling tools."""

# ruff: noqa: F811  (fixtures of another file)
import json
import sys

import av
import numpy as np
import pytest
from PIL import Image
from test_predict import _predictions, pictures, run  # noqa: F401


@pytest.fixture
def video(tmp_path):
    """Five frames of 40x60: a white rectangle, 10 rows by 20 columns, moves by 4 columns each."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 40, 60, "yuv420p"
        for index in range(5):
            pixels = np.zeros((40, 60, 3), dtype=np.uint8)
            pixels[10:20, 4 * index : 4 * index + 20] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_a_video_gets_boxes_and_a_line_per_frame(run, video):
    code, out = run(video, options=["--batch-size", "2"])
    assert code == 0
    lines = [json.loads(line) for line in (out / "clip.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["time"] for line in lines] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    for index, line in enumerate(lines):
        (found,) = line["detections"]
        assert found["bbox"] == pytest.approx([4 * index, 10, 20, 10], abs=1.5)
        assert (found["class"], found["score"]) == ("class 1", 0.75)
    with av.open(str(out / "clip.mp4")) as container:
        assert len(list(container.decode(video=0))) == 5
    assert not (out / "predictions.json").exists()


def test_pictures_and_videos_go_together_and_neither_is_overwritten(run, pictures, video):
    _, out = run(pictures, video)
    assert len(_predictions(out)["images"]) == 2 and (out / "clip.mp4").exists()
    with pytest.raises(FileExistsError, match="clip.mp4"):
        run(video)
    assert run(video, options=["--overwrite"])[0] == 0


def test_a_video_that_is_read_is_not_written_on(run, video):
    run.out.mkdir()
    inside = video.rename(run.out / "clip.mp4")
    before = inside.read_bytes()
    with pytest.raises(FileExistsError, match="read by this run"):
        run(inside, options=["--overwrite"])
    assert inside.read_bytes() == before


def test_formats_lie_beside_the_json(run, pictures):
    _, out = run(pictures, options=["--format", "yolo", "csv", "labelstudio", "coco"])
    label, x, y, width, height = map(float, (out / "labels" / "a.txt").read_text().split())
    assert label == 1
    assert [x * 80, y * 50, width * 80, height * 50] == pytest.approx([25, 18, 30, 20], abs=1.3)
    assert len((out / "predictions.csv").read_text().splitlines()) == 3
    assert len(json.loads((out / "labelstudio.json").read_text())) == 2
    (out / "predictions.json").unlink()
    with pytest.raises(FileExistsError, match="labels"):
        run(pictures, options=["--format", "yolo"])
    assert run(pictures, options=["--format", "yolo", "--overwrite"])[0] == 0


def test_yolo_refuses_pictures_of_one_name_before_it_looks_at_any(run, pictures):
    Image.open(pictures / "a.png").save(pictures / "a.jpg")
    with pytest.raises(ValueError, match="a.jpg"):
        run(pictures, options=["--format", "yolo"])
    assert not run.out.exists()


def test_repeated_looks_find_the_same(run, pictures):
    _, out = run(pictures / "a.png", options=["--tta", "--confidence-threshold", "0.7"])
    best = max(_predictions(out)["annotations"], key=lambda found: found["score"])
    assert best["bbox"] == pytest.approx([10, 8, 30, 20], abs=1.6)  # a pixel of the smallest view
    assert best["score"] == 0.75


def test_tiles_see_a_small_object_as_large_as_it_is(run, tmp_path):
    pixels = np.full((100, 160, 3), 30, dtype=np.uint8)
    pixels[:, :, 0] = 128  # each tile has something
    pixels[30:40, 100:120] = 255
    Image.fromarray(pixels).save(tmp_path / "large.png")
    _, out = run(tmp_path / "large.png", options=["--tiles", "64", "--tile-overlap", "16"])
    found = _predictions(out)["annotations"]
    assert len(found) >= 6  # one a tile at least
    image = _predictions(out)["images"][0]
    assert (image["height"], image["width"]) == (100, 160)
    right = max(a["bbox"][0] + a["bbox"][2] for a in found)
    assert right == pytest.approx(160, abs=1)


@pytest.mark.parametrize(
    "options, message",
    [(["--tile-overlap", "8"], "--tiles"), (["--tiles", "64", "--tile-overlap", "64"], "64")],
)
def test_overlaps_that_mean_nothing_are_refused(run, pictures, options, message):
    with pytest.raises(ValueError, match=message):
        run(pictures, options=options)
    assert not run.out.exists()


def test_what_is_missing_is_said_before_anything_is_written(run, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"co-detr\[draw\]"):
        run(pictures)
    assert not run.out.exists()
