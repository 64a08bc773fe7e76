"""A batch in parts gives the losses and update of the whole batch, also on several processes."""

import copy
import itertools
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from omegaconf import OmegaConf
from torch import nn

from co_detr import model_zoo
from co_detr.engine.accumulation import split
from co_detr.engine.build import one_process_first, wrap_for_ddp
from co_detr.engine.trainer import Trainer
from co_detr.modeling import sampling
from co_detr.modeling.losses import LossTerm, normalize
from co_detr.modeling.queries import customized, denoising
from co_detr.modeling.whole_batch import WholeBatch, all_classes


def train(model, batches, accumulate, iterations=1, **options):
    """Train, and return what was logged in each iteration."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, iter(batches), optimizer, accumulate=accumulate, **options)
    logged, step = [], trainer.run_step

    def run_step():
        step()
        latest = trainer.storage.latest().items()
        logged.append({name: value for name, (value, _) in latest if name != "data_time"})

    trainer.run_step = run_step
    trainer.train(0, iterations)
    return logged


def test_parts_differ_in_size_by_one_at_most():
    assert split([1, 2, 3, 4, 5, 6, 7, 8], 4) == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert split([1, 2, 3, 4, 5], 3) == [[1], [2, 3], [4, 5]]
    assert split("whatever", 1) == ["whatever"]
    with pytest.raises(ValueError, match="accumulate=3 cannot cut a batch of 2 images"):
        split([1, 2], 3)


class Mean(nn.Module):
    """Losses that are means over the images, as models of one's own have them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))

    def forward(self, batch):
        x = torch.tensor(batch)
        return {"loss": (self.weight * x).mean(), "largest": self.weight.detach() * x.max()}


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_losses_that_are_means_over_images_are_averaged_by_the_size_of_the_parts(accumulate):
    model = Mean()
    (logged,) = train(model, [[1.0, 2.0, 3.0, 6.0]], accumulate)
    assert logged["loss"] == logged["total_loss"] == 3.0  # the mean of all four
    assert model.weight.item() == pytest.approx(1 - 0.1 * 3)


class Counted(nn.Module):
    """Losses divided by counts of their own: of numbers above 1, and of numbers above 4."""

    normalizes_over_batch = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))
        self.norm = nn.BatchNorm1d(1, affine=False)
        self.drawn = []

    def forward(self, batch):
        self.drawn.append(torch.rand(1).item())
        x = torch.tensor(batch)
        self.norm(torch.stack([x, -x])[..., None].flatten(0, 1))
        return normalize(
            {
                "a/loss": LossTerm((self.weight * x).sum(), (x > 1).sum()),
                "b/loss": LossTerm((self.weight**2 * x).sum(), (x > 4).sum()),
            }
        )


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_every_loss_is_divided_by_its_count_in_the_whole_batch(accumulate):
    model = Counted()
    (logged,) = train(model, [[1.0, 2.0, 3.0, 6.0]], accumulate)
    # a: 12 / 3, b: 12 / 1; parts alone would be divided by counts of 0 (then 1) to 2
    assert logged == pytest.approx({"a/loss": 4.0, "b/loss": 12.0, "total_loss": 16.0})
    assert model.weight.item() == pytest.approx(1 - 0.1 * (4 + 2 * 12))


def test_the_survey_draws_what_the_parts_draw_and_leaves_no_trace():
    model = Counted()
    train(model, [[1.0, 2.0, 3.0, 6.0]] * 2, 2, iterations=2)
    first, second = model.drawn[:4], model.drawn[4:]
    assert first[:2] == first[2:] and second[:2] == second[2:]
    assert len(set(model.drawn)) == 4
    assert model.norm.num_batches_tracked == 4  # two parts, two iterations


# ---------------------------------------------------------------- Co-DETR


def pictures(seed, count=8):
    """Noise of different sizes with 0 to 4 objects; the first picture shows none."""
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for number in range(count):
        height, width = (int(torch.randint(5, 8, (), generator=generator)) * 10 for _ in range(2))
        size = 12 + 30 * torch.rand(number % 5, 2, generator=generator)
        corner = torch.rand(number % 5, 2, generator=generator)
        corner = corner * (torch.tensor([width, height]) - size)
        instances = Instances(
            (height, width),
            gt_boxes=Boxes(torch.cat([corner, corner + size], dim=1)),
            gt_classes=torch.randint(0, 10, (number % 5,), generator=generator),
        )
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances})
    return batch


@pytest.fixture
def nothing_random(monkeypatch):
    """What the model draws depends on each image alone: the first candidates, one noise."""

    def one_noise(classes, num_classes):
        boxes = classes.new_ones((*classes.shape, 4), dtype=torch.float32)
        chance = torch.zeros_like(classes, dtype=torch.float32)
        return denoising.DenoisingNoise(chance, torch.zeros_like(classes), boxes, 0.5 * boxes)

    def first_rank(like):
        return torch.linspace(0.9, 0.1, like.shape[1]).expand(like.shape)

    monkeypatch.setattr(denoising, "draw_noise", one_noise)
    monkeypatch.setattr(sampling, "random_rank", first_rank)
    monkeypatch.setattr(customized, "random_rank", first_rank)


@pytest.mark.parametrize(
    "name", ["co_deformable_detr/co_deformable_detr_digits", "co_dino/co_dino_digits"]
)
def test_four_parts_of_two_equal_one_batch_of_eight(name, nothing_random):
    cfg = model_zoo.get_config(name)
    cfg.model.backbone.stem.norm = "FrozenBN"  # whose statistics are not those of the batch
    for stage in cfg.model.backbone.stages:
        stage.norm = "FrozenBN"
    torch.manual_seed(0)
    whole = instantiate(cfg.model)
    parts = copy.deepcopy(whole)
    batches = [pictures(seed) for seed in range(2)]
    clip = {"clip_grad": dict(max_norm=0.1)}
    expected = train(whole, batches, 1, iterations=2, **clip)
    found = train(parts, batches, 4, iterations=2, **clip)
    for one, other in zip(expected, found):
        assert one.keys() == other.keys()
        losses = {loss for loss in one if "/loss" in loss}
        assert {"rcnn/loss_rpn_class", "atss/loss_box", "customized/atss/loss_box_1"} <= losses
        for loss in losses:
            assert other[loss] == pytest.approx(one[loss], abs=1e-5), loss
    for (parameter, one), other in zip(whole.named_parameters(), parts.parameters()):
        assert (one - other).abs().max() < 1e-4, parameter


def test_the_federated_loss_scores_the_classes_of_the_whole_batch():
    batch = [{"instances": Instances((1, 1), gt_classes=torch.tensor(c))} for c in ([0], [3, 4])]
    part = [batch[1]["instances"].gt_classes]
    with WholeBatch(batch).use():
        assert [c.tolist() for c in all_classes(part)] == [[0], [3, 4]]
    assert all_classes(part) == part


# ---------------------------------------------------------------- several processes


PARALLEL = {"train": {"device": "cpu", "ddp": {"broadcast_buffers": False}}}


def _rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    comm.create_local_process_group(2)
    with one_process_first():
        with open(f"{folder}/order", "a") as file:
            file.write(f"{rank}")
    weights = []
    for accumulate in (1, 2):
        with warnings.catch_warnings():  # the log of a job is free of them
            warnings.simplefilter("error")
            ddp = wrap_for_ddp(OmegaConf.create(PARALLEL), Counted())
        batch = [[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 1.0]][rank]
        logged = train(ddp, itertools.repeat(batch), accumulate, iterations=2)
        weights.append((ddp.module.weight.item(), logged))
    torch.save(weights, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_processes_with_accumulation_agree_and_equal_those_without(tmp_path):
    context = mp.get_context("fork")
    processes = [context.Process(target=_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "order").read_text() == "01", "both went for the download at once"
    (plain, parts), other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert other[0][0] == plain[0] and other[1][0] == parts[0], "the ranks drifted apart"
    assert parts[0] == pytest.approx(plain[0], abs=1e-6)
    # counts are means over the ranks, 3 and 2; so are the losses: (12 + 16) / 2 over them
    assert plain[1][0] == pytest.approx({"a/loss": 14 / 3, "b/loss": 7, "total_loss": 35 / 3})
    for one, two in zip(plain[1], parts[1]):
        assert two == pytest.approx(one, abs=1e-5)
