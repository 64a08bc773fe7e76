"""The training loader: reproducible, resumable, and robust against broken pictures."""

import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper

from co_detr.data import build_train_loader, detr_augmentation, load_dataset
from co_detr.data.loader import Draw, TrainingBatches, TrainingDataset, random_numbers_of


def _mapper():
    augmentations = detr_augmentation([16, 24, 32], 64, [20, 30], 80, (10, 24))
    return DatasetMapper(True, augmentations=augmentations, image_format="RGB")


def _take(loader, number):
    return list(itertools.islice(loader, number))


def _same(batches, others):
    """Whether two lists of training batches hold the same images and boxes."""
    assert len(batches) == len(others)
    return all(
        a["image_id"] == b["image_id"]
        and torch.equal(a["image"], b["image"])
        and torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
        for batch, other in zip(batches, others)
        for a, b in zip(batch, other, strict=True)
    )


@pytest.mark.parametrize("grouping", [False, True])
def test_a_resumed_loader_continues_with_the_very_same_batches(tiny, grouping):
    dicts = load_dataset(tiny.register())

    def loader(**options):
        return build_train_loader(
            dicts,
            mapper=_mapper(),
            total_batch_size=3,
            aspect_ratio_grouping=grouping,
            **{"num_workers": 0, "seed": 7, **options},
        )

    whole = _take(loader(), 9)
    torch.manual_seed(99)  # the state of the global generators does not matter
    np.random.seed(99)
    assert _same(whole[5:], _take(loader(start_iter=5), 4))
    assert _same(whole[:3], _take(loader(num_workers=2), 3))
    assert not _same(whole[:3], _take(loader(seed=8), 3))


def test_augmentation_differs_between_epochs(tiny):
    dicts = load_dataset(tiny.register())[:1]
    loader = build_train_loader(dicts, mapper=_mapper(), total_batch_size=1, num_workers=0)
    assert len({tuple(batch[0]["image"].shape) for batch in _take(loader, 12)}) > 3


def test_loading_leaves_the_global_generators_alone(tiny):
    dicts = load_dataset(tiny.register())
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    _take(build_train_loader(dicts, mapper=_mapper(), total_batch_size=2, num_workers=0), 3)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_random_numbers_are_restored_after_an_error():
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    with pytest.raises(RuntimeError), random_numbers_of([1, 2]):
        np.random.rand()
        raise RuntimeError
    assert np.random.rand() == expected


def test_every_epoch_shows_every_image_once():
    batches = iter(TrainingBatches(6, 2, seed=0))
    epochs = [sorted(sum((next(batches) for _ in range(3)), [])) for _ in range(3)]
    assert epochs == [list(range(6))] * 3


def test_ranks_share_out_an_epoch():
    ranks = [iter(TrainingBatches(8, 2, seed=0, rank=r, world_size=2)) for r in range(2)]
    shown = [next(rank) for _ in range(2) for rank in ranks]
    assert sorted(sum(shown, [])) == list(range(8))


def test_grouped_batches_hold_images_of_one_kind_and_lose_none():
    is_wide = [True, False, True, True, False]
    batches = _take(TrainingBatches(5, 2, seed=0, is_wide=is_wide), 200)
    assert all(len({is_wide[index] for index in batch}) == 1 for batch in batches)
    counts = np.bincount(sum(batches, []))
    assert counts.max() - counts.min() <= 2  # at most one image of each kind waits for another


def test_draw_travels_to_workers_with_its_position():
    draw = pickle.loads(pickle.dumps(Draw(4, 17)))
    assert (draw, draw.position) == (4, 17)


def test_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="out of 0 images"):
        TrainingBatches(0, 2, seed=0)


def test_a_broken_picture_is_skipped_logged_and_replaced(tiny, caplog):
    (tiny.root / "2.png").write_bytes((tiny.root / "2.png").read_bytes()[:500])
    dataset = TrainingDataset(load_dataset(tiny.register()), _mapper(), seed=0)
    example = dataset[Draw(1, 0)]
    assert example["image_id"] in {1, 3, 4}
    assert "2.png" in caplog.text and "1 skipped so far" in caplog.text


def test_a_picture_of_another_size_than_annotated_is_skipped(tiny, caplog):
    tiny.content["images"][1].update(height=40, width=60)
    dataset = TrainingDataset(load_dataset(tiny.register()), _mapper(), seed=0)
    assert dataset[Draw(1, 0)]["image_id"] != 2
    assert "SizeMismatchError" in caplog.text


def test_training_stops_when_no_picture_can_be_read(tiny):
    for path in tiny.root.iterdir():
        path.write_bytes(b"no picture")
    dataset = TrainingDataset(load_dataset(tiny.register()), _mapper(), seed=0)
    with pytest.raises(RuntimeError, match="10 of 10 images could not be read.*Fetch the images"):
        dataset[Draw(0, 0)]


def test_training_stops_when_a_large_share_cannot_be_read(tiny):
    (tiny.root / "1.png").write_bytes(b"no picture")
    dataset = TrainingDataset(load_dataset(tiny.register()), _mapper(), seed=0)
    with pytest.raises(RuntimeError, match="11 of .* could not be read.*1.png"):
        for position in range(100):
            dataset[Draw(position % 4, position)]


def test_a_missing_picture_is_an_error_with_its_path(tiny):
    (tiny.root / "3.png").unlink()
    dataset = TrainingDataset(load_dataset(tiny.register()), _mapper(), seed=0)
    with pytest.raises(FileNotFoundError, match="3.png.*is not there"):
        dataset[Draw(2, 0)]


def test_records_without_annotations_become_examples_without_boxes(tiny):
    dicts = load_dataset(tiny.register())
    del dicts[3]["annotations"]
    assert len(TrainingDataset(dicts, _mapper(), seed=0)[Draw(3, 0)]["instances"]) == 0


def test_crowd_regions_are_no_targets(tiny):
    tiny.content["annotations"][0]["iscrowd"] = 1
    mapper = DatasetMapper(True, augmentations=[], image_format="RGB")
    example = TrainingDataset(load_dataset(tiny.register()), mapper, seed=0)[Draw(0, 0)]
    assert example["instances"].gt_boxes.tensor.tolist() == [[30, 5, 40, 35]]


def test_boxes_are_clipped_to_the_image(tiny):
    tiny.content["annotations"][0]["bbox"] = [50, -5, 50, 100]
    mapper = DatasetMapper(True, augmentations=[], image_format="RGB")
    example = TrainingDataset(load_dataset(tiny.register()), mapper, seed=0)[Draw(0, 0)]
    assert example["instances"].gt_boxes.tensor[0].tolist() == [50, 0, 60, 40]
