"""The test loader leaves out what cannot be read, and evaluation goes on."""

import logging

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import LazyCall as L
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm
from omegaconf import OmegaConf

from co_detr.data import DetectionMapper, build_test_loader, load_dataset
from co_detr.data.loader import report_left_out
from co_detr.engine.train import do_test


def _loader(dicts, **options):
    mapper = DetectionMapper(False, augmentations=[], image_format="RGB")
    return build_test_loader(dicts, mapper=mapper, **options)


def _ids(loader):
    return [[example["image_id"] for example in batch] for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_lack_the_pictures_that_are_unreadable(tiny, caplog, workers):
    dicts = load_dataset(tiny.register(), is_train=False)
    (tiny.root / "2.png").write_bytes(b"")
    (tiny.root / "3.png").unlink()
    (tiny.root / "4.png").write_bytes((tiny.root / "1.png").read_bytes())  # of another size
    loader = _loader(dicts, num_workers=workers, batch_size=2)
    assert _ids(loader) == [[1]] and len(loader) == 2  # the second batch is empty
    assert [name[-5:] for name in loader.left_out] == ["2.png", "3.png", "4.png"]
    assert "2.png: the file is empty" in caplog.text
    assert "3.png: there is no such file" in caplog.text
    assert "4.png: SizeMismatchError" in caplog.text
    caplog.clear()
    report_left_out(loader)
    assert "Left out of this evaluation: 3 of 4 images" in caplog.text and "2.png" in caplog.text
    (tiny.root / "2.png").write_bytes((tiny.root / "1.png").read_bytes())
    assert _ids(loader) == [[1]] and len(loader.left_out) == 3  # counted anew


class Seen(DatasetEvaluator):
    """Notes the pictures it gets, on all ranks."""

    def reset(self):
        self.ids = []

    def process(self, inputs, outputs):
        self.ids += [x["image_id"] for x in inputs]

    def evaluate(self):
        ids = sum(comm.all_gather(self.ids), [])
        return {"seen": {"number": len(ids), "sum": sum(ids)}}


def test_evaluation_goes_on_also_where_no_picture_is_left(tiny, caplog):
    dicts = load_dataset(tiny.register(), is_train=False)
    (tiny.root / "2.png").write_bytes(b"no picture")
    cfg = OmegaConf.create({"dataloader": {}}, flags={"allow_objects": True})
    cfg.dataloader.test = L(_loader)(dicts=dicts)
    cfg.dataloader.evaluator = L(Seen)()
    assert do_test(cfg, list) == {"seen": {"number": 3, "sum": 1 + 3 + 4}}
    assert "Left out of this evaluation: 1 of 4 images" in caplog.text
    for path in tiny.root.iterdir():
        path.write_bytes(b"no picture")
    assert inference_on_dataset(list, _loader(dicts), Seen()) == {"seen": {"number": 0, "sum": 0}}


def _evaluate(rank, address, dicts, results):
    """One of two ranks; the first has the first half of the pictures."""
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("co_detr.data.loader").addHandler(handler)
    loader = _loader(dicts)
    seen = inference_on_dataset(list, loader, Seen())["seen"]
    report_left_out(loader)
    results.put((rank, seen, messages))
    dist.barrier()
    dist.destroy_process_group()


def test_a_rank_without_a_readable_picture_evaluates_along(tiny, tmp_path):
    dicts = load_dataset(tiny.register(), is_train=False)
    for name in ("3.png", "4.png"):
        (tiny.root / name).write_bytes(b"no picture")
    context = mp.get_context("fork")
    results = context.SimpleQueue()
    arguments = f"file://{tmp_path}/store", dicts, results
    ranks = [context.Process(target=_evaluate, args=(rank, *arguments)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    found = {rank: rest for rank, *rest in (results.get() for _ in ranks)}
    for process in ranks:
        process.join(timeout=120)
    assert found[0][0] == found[1][0] == {"number": 2, "sum": 1 + 2}
    (message,) = found[0][1]  # the main process tells of all
    assert "2 of 4 images" in message and "3.png" in message and "4.png" in message
    assert found[1][1] == []


def test_too_many_unreadable_pictures_end_an_evaluation(tiny):
    dicts = load_dataset(tiny.register(), is_train=False)[:1]
    gone = [{**dicts[0], "file_name": str(tiny.root / f"gone{i}.png")} for i in range(11)]
    assert len(_ids(_loader(30 * dicts + gone[:10]))) == 30  # ten are allowed
    with pytest.raises(RuntimeError, match="11 of 41 images could not be read, .*gone10.png"):
        _ids(_loader(30 * dicts + gone))
    _ids(_loader(gone + 1100 * dicts, batch_size=100))  # 11 of 1111 are less than 1 %


def test_the_report_is_silent_where_all_was_read(tiny, caplog):
    name = tiny.register()
    loader = _loader(load_dataset(name, is_train=False))
    _ids(loader)
    report_left_out(loader)
    report_left_out([])  # some other loader
    assert "Left out" not in caplog.text
