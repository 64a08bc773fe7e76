import pytest
from pets import PICTURES, coco, save_picture, write_json


@pytest.fixture
def coco_folder(tmp_path):
    """Pictures to train and to validate on, in Roboflow's layout."""
    folder = tmp_path / "pets"
    for split, name in (("train", "a.png"), ("valid", "b.png")):
        save_picture(folder / split / name, PICTURES[name][0], seed=ord(name[0]))
        write_json(folder / split / "_annotations.coco.json", coco([name]))
    return folder
