"""A sharded training computes and saves what one with whole copies does."""

import json
import shutil
import signal
from collections import Counter, defaultdict

import pytest
import torch
from detectors import MODELS, build
from detectron2.config import LazyConfig, instantiate
from detectron2.utils import comm
from jobs import CO_DETR, TOY, arguments, assert_same_run, in_two_processes, losses
from omegaconf import OmegaConf

from co_detr.engine import fsdp
from co_detr.modeling.backbone.eva import EvaViT
from co_detr.modeling.backbone.swin import SwinTransformer
from co_detr.modeling.backbone.timm_backbone import TimmBackbone

SHARDED = "train.fsdp.enabled=True"
# AdamW makes updates of one size of all gradients, even where rounding gives the sign: not so here
SHORT = ["train.max_iter=3", "train.checkpointer.max_to_keep=0", "optimizer.eps=1e-3"]
# two images a process, each a part of its own; of three images one shows nothing
OPTIONS = [
    *("dataloader.train.total_batch_size=4", "train.accumulate=2", "train.recompute_blocks=2"),
    *("model.model.encoder.num_checkpointed=1", "model.model.decoder.num_checkpointed=1"),
    *("train.ema.enabled=True", "train.ema.decay=0.5", "optimizer.fused=True"),
    *("train.eval_period=0", "train.best_checkpoint.enabled=False"),
]


def run(folder, *overrides, config=CO_DETR, resume=False, expected=0):
    args = arguments(folder, *overrides, config=config, resume=resume)
    assert in_two_processes(args) == [expected, expected]


def initial_weights(path):
    torch.manual_seed(0)
    model = instantiate(LazyConfig.load(CO_DETR).model.model)
    torch.save({"model": {f"model.{name}": w for name, w in model.state_dict().items()}}, path)
    return path


def go_on_from(folder, iterations, new):
    """A new folder with what another run had saved after so many iterations."""
    new.mkdir()
    name = f"model_{iterations - 1:07d}.pth"
    shutil.copy(folder / name, new / name)
    (new / "last_checkpoint").write_text(name)
    return new


def steps(folder, after=0):
    """{(iteration, rank): [(images, boxes, loss) of each forward pass]} from an iteration on."""
    found = defaultdict(list)
    for line in (folder / "losses.txt").read_text().splitlines():
        iteration, rank, images, boxes, loss, _ = line.split()
        if int(iteration) >= after:
            found[int(iteration), int(rank)].append((images, int(boxes), float.fromhex(loss)))
    return dict(found)


def gradient_norms(folder):
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return [line["grad_norm"] for line in lines if "grad_norm" in line]


def assert_alike(folder, expected, after=0):
    """Batches and losses from an iteration on, and the files at the end, are the same."""
    ours, theirs = steps(folder), steps(expected, after)
    assert ours.keys() == theirs.keys()
    for key, passes in ours.items():
        assert [one[:2] for one in passes] == [other[:2] for other in theirs[key]]
        found, wanted = ([one[2] for one in side] for side in (passes, theirs[key]))
        assert found == pytest.approx(wanted, rel=1e-5), key
    for path in expected.glob("model_final*.pth"):
        assert_alike_files(folder / path.name, path)


def assert_alike_files(path, expected):
    ours, theirs = (torch.load(file, weights_only=True) for file in (path, expected))
    assert list(ours) == list(theirs)
    for part in ours.keys() & {"model", "ema"}:
        assert list(ours[part]) == list(theirs[part])
        for name, weight in ours[part].items():
            torch.testing.assert_close(weight, theirs[part][name], atol=1e-5, rtol=0)
    if "trainer" not in ours:
        return
    assert ours["trainer"]["parameters"] == theirs["trainer"]["parameters"]
    ours, theirs = (file["trainer"]["optimizer"] for file in (ours, theirs))
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for number, state in ours["state"].items():
        assert state["step"] == theirs["state"][number]["step"]
        for name in ("exp_avg", "exp_avg_sq"):
            other = theirs["state"][number][name]
            assert state[name].shape == other.shape
            # rounding decides slopes where samples lie on cells' centres, as in new models
            assert (state[name] - other).norm() <= 1e-2 * other.norm(), (number, name)


def test_a_sharded_run_is_like_one_with_copies(tmp_path):
    copies, sharded = tmp_path / "copies", tmp_path / "sharded"
    words = [*SHORT, f"train.init_checkpoint={initial_weights(tmp_path / 'initial.pth')}"]
    run(copies, *words)
    run(sharded, *words, SHARDED)
    assert_alike(sharded, copies)
    assert_alike_files(sharded / "model_best.pth", copies / "model_best.pth")
    seen = steps(copies)
    boxes = [{seen[iteration, rank][0][1] for rank in range(2)} for iteration in range(3)]
    assert any(0 in counts and len(counts) == 2 for counts in boxes)  # none on one process alone
    norms = gradient_norms(copies)
    assert gradient_norms(sharded) == pytest.approx(norms, rel=1e-4)
    assert min(norms) > 1  # and is clipped to 0.1
    log = (sharded / "log.txt").read_text()
    assert "are sharded over 2 processes" in log and "Warning" not in log


def test_runs_go_on_sharded_and_with_copies_in_turns(tmp_path):
    copies = tmp_path / "copies"
    run(copies, *SHORT, *OPTIONS, "train.checkpointer.period=1")
    sharded = go_on_from(copies, 1, tmp_path / "sharded")
    run(sharded, *SHORT, *OPTIONS, SHARDED, resume=True)
    assert_alike(sharded, copies, after=1)
    again = go_on_from(sharded, 2, tmp_path / "again")
    run(again, *SHORT, *OPTIONS, resume=True)
    assert_alike(again, copies, after=2)


def test_a_sharded_run_stops_early_and_on_signals_and_resumes_exactly(tmp_path):
    words = [SHARDED, "train.max_iter=20", "train.early_stop.patience=1", "train.ema.enabled=True"]
    words += ["dataloader.evaluator.values=[10.0]"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole, *words, config=TOY)
    # the second process is asked to end, between two checkpoints
    stop = ["model.signal_at=4", "model.signal_from=1"]
    run(cut, *words, *stop, config=TOY, expected=128 + signal.SIGTERM)
    assert (cut / "model_0000004.pth").exists()
    run(cut, *words, config=TOY, resume=True)
    assert max(losses(cut)) == 7  # the second evaluation brought nothing better
    assert_same_run(cut, whole)


# ---------------------------------------------------------------- parts

SMALL_SWIN = {"embed_dim": 24, "depths": (2, 1), "num_heads": (1, 2), "out_features": ("res3",)}


def test_what_does_not_go_together_is_refused(monkeypatch):
    train = {"fsdp": {"enabled": True}, "channels_last": False, "ddp": {}}

    def check(**options):
        fsdp.check(OmegaConf.create({"train": train | options}))

    check(fsdp={"enabled": False})
    with pytest.raises(ValueError, match="there is one: start more with --num-gpus or torchrun"):
        check()
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    check()
    with pytest.raises(ValueError, match="set train.channels_last=False, or set train.fsdp.enab"):
        check(channels_last=True)
    check(amp={"enabled": True, "dtype": "bfloat16"})
    with pytest.raises(ValueError, match="set train.amp.dtype=bfloat16, or set train.fsdp.enab"):
        check(amp={"enabled": True, "dtype": "float16"})
    with pytest.raises(ValueError, match="no train.ddp.find_unused_parameters: set that to False"):
        check(ddp={"find_unused_parameters": True})
    monkeypatch.delattr(fsdp.FSDPModule, "set_reshard_after_forward")
    with pytest.raises(ValueError, match="needs PyTorch 2.8, this is"):
        check()


@pytest.mark.parametrize(
    "backbone, kind, count",
    [
        (lambda: EvaViT(embed_dim=48, num_heads=4, depth=3, global_blocks=(1,)), "EvaBlock", 3),
        (lambda: SwinTransformer(**SMALL_SWIN), "SwinBlock", 3),
        (lambda: timm_backbone("vit_tiny_patch16_224", out_names=["res4"]), "Block", 12),
        (lambda: timm_backbone("swin_tiny_patch4_window7_224"), "SwinTransformerBlock", 12),
        (lambda: timm_backbone("convnext_atto"), "ConvNeXtBlock", 12),
        (lambda: build(MODELS["no-heads"]()).backbone, "BottleneckBlock", 16),
    ],
)
def test_blocks_of_backbones_are_found(backbone, kind, count):
    with torch.device("meta"):
        blocks = list(fsdp.blocks_of(backbone()))
    kinds = Counter(type(block).__name__ for block in blocks)
    assert kinds.pop("BasicStem", 1) == 1 and kinds == {kind: count}


def timm_backbone(name, **options):
    return TimmBackbone(model_name=name, out_indices=1 if options else 4, **options)
