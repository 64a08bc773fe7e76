"""The training loader: reproducible, resumable, and robust against broken pictures."""

import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from PIL import Image

from co_detr.data import build_train_loader, detr_augmentation, load_dataset
from co_detr.data.loader import (
    Draw,
    TrainingBatches,
    TrainingDataset,
    random_numbers_of,
    repeat_factors_of,
)
from co_detr.data.pictures import UnreadablePicture
from co_detr.engine.prefetch import Prefetcher


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


def test_reading_ahead_changes_no_batch_and_no_random_number(tiny):
    dicts = load_dataset(tiny.register())

    def steps(wrap, start=0):
        """Batches and random numbers of a training that seeds each of its steps."""
        options = {"total_batch_size": 2, "num_workers": 0, "seed": 7, "start_iter": start}
        batches = iter(wrap(build_train_loader(dicts, mapper=_mapper(), **options)))
        for iteration in range(start, 6):
            np.random.seed(iteration)
            torch.manual_seed(iteration)
            batch = next(batches)
            yield batch, (np.random.rand(), torch.rand(1).item())

    plain, ahead = list(steps(iter)), list(steps(lambda loader: Prefetcher(loader, "cpu")))
    resumed = list(steps(lambda loader: Prefetcher(loader, "cpu"), start=3))
    for some, others in ((plain, ahead), (plain[3:], resumed)):
        assert _same(*([batch for batch, _ in run] for run in (some, others)))
        assert [numbers for _, numbers in some] == [numbers for _, numbers in others]


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


def test_repeat_factors_follow_the_rarest_category_of_an_image():
    # Of 8 images, category 0 is in 8, category 1 in 2, category 2 in 1; the threshold is 1/2:
    # category 1 has sqrt(1/2 / (2/8)) = sqrt(2), category 2 sqrt(1/2 / (1/8)) = 2.
    shown = [[0], [0, 1], [0, 1, 1, 2], [0], [0], [0], [0], [0]]
    dicts = [{"annotations": [{"category_id": c} for c in categories]} for categories in shown]
    expected = [1, 2**0.5, 2, 1, 1, 1, 1, 1]
    assert repeat_factors_of(dicts, 0.5).tolist() == pytest.approx(expected)


def test_images_without_annotations_come_once():
    dicts = [{"annotations": [{"category_id": 0}]}, {"annotations": []}, {}]
    factors = repeat_factors_of(dicts, 1.0).tolist()
    assert factors == pytest.approx([3**0.5, 1, 1])  # sqrt(1 / (1/3))


def test_an_epoch_repeats_images_by_their_factors():
    # 3 + 1 + 2 = 6 draws per epoch whatever the random numbers: there are no fractions
    batches = iter(TrainingBatches(3, 2, seed=0, repeat_factors=[3.0, 1.0, 2.0]))
    epochs = [sum((next(batches) for _ in range(3)), []) for _ in range(4)]
    assert all(sorted(epoch) == [0, 0, 0, 1, 2, 2] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_fraction_of_a_factor_is_a_probability():
    draws = list(itertools.islice(TrainingBatches(2, 1, seed=0, repeat_factors=[1.0, 1.25]), 4500))
    counts = np.bincount(sum(draws, []))
    assert counts[1] / counts[0] == pytest.approx(1.25, abs=0.03)


@pytest.mark.parametrize("is_wide", [None, [True, False, True, True, False]])
@pytest.mark.parametrize("start", [1, 7, 40])
def test_repeated_images_resume_on_every_rank(is_wide, start):
    for rank in range(2):

        def batches(start=0, rank=rank):
            factors = [1.0, 2.5, 1.3, 1.0, 4.1]
            return TrainingBatches(
                5,
                2,
                seed=3,
                start=start,
                is_wide=is_wide,
                repeat_factors=factors,
                rank=rank,
                world_size=2,
            )

        whole = _take(batches(), start + 5)[start:]
        resumed = _take(batches(start), 5)
        assert resumed == whole
        positions = [[draw.position for draw in batch] for batch in whole]
        assert [[draw.position for draw in batch] for batch in resumed] == positions


def test_positions_are_unique_also_where_images_repeat():
    batches = _take(TrainingBatches(3, 2, seed=0, repeat_factors=[1.5, 2.0, 1.0]), 50)
    assert [draw.position for batch in batches for draw in batch] == list(range(100))


@pytest.mark.parametrize("factors", [[1.0, 2.0], [1.0, 0.5, 1.0]])
def test_repeat_factors_that_do_not_fit_are_refused(factors):
    with pytest.raises(ValueError, match="need 3 repeat factors >= 1"):
        TrainingBatches(3, 2, seed=0, repeat_factors=factors)


def test_the_loader_shows_rare_categories_more_often(tiny):
    # both images of category 5 have sqrt(2 / (2/4)) = 2, one of them category 9 as well: also 2
    loader = build_train_loader(
        load_dataset(tiny.register()),
        mapper=_mapper(),
        total_batch_size=1,
        num_workers=0,
        aspect_ratio_grouping=False,
        repeat_threshold=2.0,
    )
    ids = sorted(batch[0]["image_id"] for batch in _take(loader, 7))
    assert ids == [1, 1, 2, 2, 3, 3, 4]


def test_draw_travels_to_workers_with_its_position():
    draw = pickle.loads(pickle.dumps(Draw(4, 17)))
    assert (draw, draw.position) == (4, 17)


def test_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="out of 0 images"):
        TrainingBatches(0, 2, seed=0)


@pytest.mark.parametrize("length", [0, 500])
def test_a_broken_picture_is_skipped_logged_and_replaced(tiny, caplog, length):
    (tiny.root / "2.png").write_bytes((tiny.root / "2.png").read_bytes()[:length])
    dataset = TrainingDataset(load_dataset(tiny.register()), _mapper(), seed=0)
    example = dataset[Draw(1, 0)]
    assert example["image_id"] in {1, 3, 4}
    assert "2.png" in caplog.text and "1 skipped so far" in caplog.text


def test_a_picture_of_another_size_than_annotated_is_skipped(tiny, caplog):
    tiny.content["images"][1].update(height=40, width=60)
    dataset = TrainingDataset(load_dataset(tiny.register()), _mapper(), seed=0)
    assert dataset[Draw(1, 0)]["image_id"] != 2
    assert "unreadable: " in caplog.text and "2.png: SizeMismatchError: " in caplog.text


def test_training_stops_when_no_picture_can_be_read(tiny):
    for path in tiny.root.iterdir():
        path.write_bytes(b"no picture")
    dataset = TrainingDataset(load_dataset(tiny.register()), _mapper(), seed=0)
    with pytest.raises(RuntimeError, match="4 of 4 images could not be read.*Fetch the images"):
        dataset[Draw(0, 0)]


def broken(number, of):
    """Records of which the first ones cannot be read, and a mapper."""

    def mapper(record):
        if record["image_id"] < number:
            raise UnreadablePicture(record["file_name"], "broken")
        return record

    return [{"file_name": f"{i}.png", "image_id": i} for i in range(of)], mapper


def test_training_stops_when_a_large_share_cannot_be_read():
    dataset = TrainingDataset(*broken(11, of=40), seed=0)
    with pytest.raises(RuntimeError, match="11 of .* could not be read.*png: broken"):
        for position in range(100):
            dataset[Draw(position % 40, position)]


@pytest.mark.parametrize("number, of", [(10, 40), (12, 1200)])
def test_a_few_pictures_may_be_broken_in_every_epoch(number, of, caplog):
    dataset = TrainingDataset(*broken(number, of), seed=0)
    for position in range(60 * number):
        dataset[Draw(position % number, position)]
    assert caplog.text.count("broken; left out") == number


def test_a_picture_that_vanishes_is_skipped_and_named(tiny, caplog):
    dataset = TrainingDataset(load_dataset(tiny.register()), _mapper(), seed=0)
    (tiny.root / "3.png").unlink()
    assert dataset[Draw(2, 0)]["image_id"] in {1, 2, 4}
    assert "3.png: there is no such file; left out" in caplog.text


def test_errors_of_readers_other_than_ours_count_too(caplog):
    def mapper(record):
        if record["file_name"] == "bomb.png":
            raise Image.DecompressionBombError("too large")
        return record

    dataset = TrainingDataset([{"file_name": "bomb.png"}, {"file_name": "a.png"}], mapper, seed=0)
    assert dataset[Draw(0, 0)]["file_name"] == "a.png"
    assert "unreadable: bomb.png: too large" in caplog.text


def test_other_errors_are_not_hidden():
    def mapper(record):
        raise KeyError("a mistake in the mapper")

    with pytest.raises(KeyError, match="a mistake"):
        TrainingDataset([{}], mapper, seed=0)[Draw(0, 0)]


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
