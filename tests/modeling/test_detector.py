"""The whole detector: ablation switches, K = 0, 1, 2, one-stage models, awkward batches."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from golden import co_deformable_detr_config, co_dino_config, single_scale_config
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from co_detr.modeling.detector import padding_mask
from co_detr.modeling.queries.hybrid import GroupedQueries, HybridQueries
from co_detr.modeling.queries.learned import LearnedQueries

DECODER = ("class", "box", "giou")
AUX = {
    "rcnn": ("loss_rpn_class", "loss_rpn_box", "loss_class", "loss_box"),
    "atss": ("loss_class", "loss_box", "loss_centerness"),
}


def full():
    return co_deformable_detr_config()


def one_head(name, start=full):
    def config():
        cfg = start()
        for other in set(AUX) - {name}:
            del cfg.aux_heads[other]
        return cfg

    return config


def no_heads(start=full):
    cfg = start()
    del cfg.aux_heads, cfg.pyramid, cfg.query_sources.customized
    return cfg


def one_stage(cfg):
    """Learned queries, no refinement."""
    del cfg.proposals
    cfg.query_sources.matching = L(LearnedQueries)(
        num_queries=30, embed_dim="${...neck.out_channels}"
    )
    cfg.decoder.two_stage = cfg.decoder.refine = cfg.decoder.look_forward_twice = False
    return cfg


def conditional():
    return single_scale_config("conditional")


def dab():
    return single_scale_config("dab")


def one_stage_refined():
    cfg = one_stage(one_head("rcnn")())
    cfg.decoder.refine = cfg.decoder.look_forward_twice = True
    return cfg


def hybrid(cfg):
    cfg.query_sources.matching._target_ = HybridQueries
    cfg.query_sources.matching.num_one_to_many = cfg.proposals.num_extra = 40
    cfg.query_sources.matching.repeats = 3
    return cfg


def grouped(cfg):
    one_stage(cfg).query_sources.matching._target_ = GroupedQueries
    cfg.query_sources.matching.num_groups = 3
    return cfg


MODELS = {
    "two-heads": full,
    "rcnn": one_head("rcnn"),
    "atss": one_head("atss"),
    "no-heads": no_heads,
    "one-stage": lambda: one_stage(no_heads()),
    "one-stage-atss": lambda: one_stage(one_head("atss")()),
    "one-stage-refined-rcnn": one_stage_refined,
    "conditional": conditional,
    "conditional-no-heads": lambda: no_heads(conditional),
    "dab": dab,
    "dab-atss": one_head("atss", dab),
    "dab-no-heads": lambda: no_heads(dab),
    "hybrid": lambda: hybrid(full()),
    "hybrid-no-heads": lambda: hybrid(no_heads()),
    "hybrid-dino": lambda: hybrid(no_heads(co_dino_config)),
    "grouped": lambda: grouped(no_heads()),
    "grouped-atss": lambda: grouped(one_head("atss")()),
}
SCHEMES = {  # groups beside those of the auxiliary heads
    "hybrid": ["one_to_many"],
    "hybrid-no-heads": ["one_to_many"],
    "hybrid-dino": ["one_to_many", "denoising"],
    "grouped": ["group_2", "group_3"],
    "grouped-atss": ["group_2", "group_3"],
}


def build(cfg, seed=0, **switches):
    for name, value in switches.items():
        cfg[name] = value
    torch.manual_seed(seed)
    return instantiate(cfg)


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make_input(height, width, boxes=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = {"image": torch.randint(0, 256, (3, height, width), generator=generator)}
    if boxes is not None:
        x["instances"] = Instances(
            (height, width),
            gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
            gt_classes=torch.arange(len(boxes)) % 7,
        )
    return x


def usual_batch():
    return [
        make_input(64, 96, [[8, 8, 40, 50], [30, 4, 90, 60]], seed=1),
        make_input(80, 70, [[5, 20, 60, 70]], seed=2),
    ]


def train_step(model, batch, seed=0):
    """Losses and their gradients, with the same random numbers every time."""
    torch.manual_seed(seed)
    losses = model.train()(batch)
    model.zero_grad()
    sum(losses.values()).backward()
    return losses


def without_gradient(model):
    """Trainable parameters that a training step leaves without gradient."""
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def assert_healthy(model, losses):
    assert all(loss.isfinite() for loss in losses.values()), losses
    # distributed training waits for the gradient of every parameter
    assert without_gradient(model) == []
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def decoder_losses(*groups, layers=2):
    return {
        f"{group}/loss_{kind}_{layer}"
        for group in groups
        for kind in DECODER
        for layer in range(layers)
    }


def aux_losses(*heads):
    return {f"{head}/{loss}" for head in heads for loss in AUX[head]}


ENCODER = {f"encoder/loss_{kind}" for kind in DECODER}


# ---------------------------------------------------------------------------------------------
# variants


@pytest.mark.parametrize("variant", MODELS)
def test_every_variant_trains_and_detects(variant):
    config = MODELS[variant]()
    heads = [name for name in config.get("aux_heads", {}) if name != "_target_"]
    two_stage = "proposals" in config
    model = build(config)
    losses = train_step(model, usual_batch())
    assert_healthy(model, losses)
    customized = [f"customized/{head}" for head in heads]
    expected = decoder_losses("matching", *customized, *SCHEMES.get(variant, []))
    assert set(losses) == expected | aux_losses(*heads) | (ENCODER if two_stage else set())

    with torch.no_grad():
        results = model.eval()(usual_batch())
    for result, (height, width) in zip(results, [(64, 96), (80, 70)]):
        found = result["instances"]
        assert found.image_size == (height, width)
        assert 0 < len(found) <= 20
        assert (found.scores.diff() <= 0).all() and found.pred_classes.max() < 7
        x1, y1, x2, y2 = found.pred_boxes.tensor.unbind(1)
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()


@pytest.mark.parametrize("name", ["two-heads", "one-stage", "one-stage-atss", "conditional", "dab"])
def test_training_makes_losses_fall(name):
    model, batch = build(MODELS[name]()), usual_batch()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    totals = []
    for _ in range(6):
        totals.append(sum(train_step(model, batch).values()).item())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert totals[-1] < 0.9 * totals[0]


@pytest.mark.parametrize("name", ["two-heads", "atss", "one-stage-atss"])
def test_customized_queries_leave_the_matching_queries_alone(name):
    with_them, without = (
        build(MODELS[name](), customized_queries=on).train() for on in (True, False)
    )
    without.load_state_dict(with_them.state_dict(), strict=False)
    losses, expected = train_step(with_them, usual_batch()), train_step(without, usual_batch())
    gone = {loss for loss in losses if loss.startswith("customized/")}
    assert set(losses) - set(expected) == gone and len(gone) == 6 * len(with_them.aux_heads)
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, atol=1e-5, rtol=1e-5, msg=key)


def test_learned_queries_are_the_same_for_all_images():
    model = build(MODELS["one-stage"]())
    images, sizes = model.preprocess(usual_batch())
    memory = model.encoder(model.neck(model.backbone(images)), padding_mask(images, sizes))
    (group,) = model.query_sources["matching"](memory)
    assert group.reference.shape == (2, 30, 2)
    for tensor in (group.content, group.position, group.reference):
        torch.testing.assert_close(tensor[0], tensor[1])
    weight = model.query_sources["matching"].embedding.weight  # position, then content
    assert torch.equal(group.position[0], weight[:, :64])
    assert torch.equal(group.content[0], weight[:, 64:])


# ---------------------------------------------------------------------------------------------
# switches


@pytest.mark.parametrize(
    "switches, heads_train, customized",
    [
        ({}, True, True),
        ({"aux_losses": False}, False, True),
        ({"customized_queries": False}, True, False),
        ({"aux_losses": False, "customized_queries": False}, False, False),
    ],
)
@pytest.mark.parametrize("name", ["two-heads", "rcnn"])
def test_ablation_switches(name, switches, heads_train, customized):
    cfg = MODELS[name]()
    heads = [name for name in cfg.aux_heads if name != "_target_"]
    model = build(cfg, **switches)
    losses = train_step(model, usual_batch())
    expected = ENCODER | decoder_losses("matching")
    if heads_train:
        expected |= aux_losses(*heads)
    if customized:
        expected |= decoder_losses(*(f"customized/{head}" for head in heads))
    assert set(losses) == expected
    assert_healthy(model, losses)
    # what has no part in any loss is not trained, and says so
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"backbone"} | (set() if heads_train else {"aux_heads", "pyramid"})
    assert any(name.startswith("query_sources.customized") for name in model.state_dict()) == (
        customized
    )


def test_heads_without_losses_still_assign_and_detect():
    model, whole = build(full(), aux_losses=False), build(full())
    whole.load_state_dict(model.state_dict())
    losses, expected = train_step(model, usual_batch()), train_step(whole, usual_batch())
    for key, value in losses.items():
        torch.testing.assert_close(value, expected[key], msg=key)
    model.eval_branch = "atss"
    with torch.no_grad():
        assert len(model.eval()(usual_batch())[0]["instances"]) == 20


def test_heads_that_serve_nothing_are_not_run():
    model = build(full(), aux_losses=False, customized_queries=False)
    for head in model.aux_heads.values():
        head.register_forward_hook(lambda *_: pytest.fail("a head ran"))
    train_step(model, usual_batch())


@pytest.mark.parametrize("branch", ["matching", "rcnn", "atss"])
def test_branches_of_evaluation(branch):
    model = build(full(), eval_branch=branch).eval()
    calls = []
    for name, module in (("matching", model.decoder), *model.aux_heads.items()):
        method = "forward" if name == "matching" else "inference"
        original = getattr(module, method)

        def noted(*args, _name=name, _original=original):
            calls.append(_name)
            return _original(*args)

        setattr(module, method, noted)
    with torch.no_grad():
        model(usual_batch())
    assert calls == [branch]


@pytest.mark.parametrize(
    "make, changes, message",
    [
        (full, {"eval_branch": "fcos"}, r"'fcos' is none of \['matching', 'rcnn', 'atss'\]"),
        (no_heads, {"eval_branch": "atss"}, r"'atss' is none of \['matching'\]"),
        (full, {"pyramid": None}, "read a pyramid"),
        (MODELS["one-stage"], {"query_sources": {}}, 'need "matching"'),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, changes, message):
    cfg = make()
    with pytest.raises(ValueError, match=message):
        build(cfg, **changes)


# ---------------------------------------------------------------------------------------------
# awkward batches

BATCHES = {
    "no-boxes": [(64, 96, []), (64, 96, [])],
    "one-empty-image": [(64, 96, [[8, 8, 40, 50], [30, 4, 90, 60]]), (64, 96, [])],
    "one-box": [(64, 96, [[8, 8, 40, 50]])],
    "one-pixel": [(64, 96, [[50, 30, 51, 31]]), (64, 96, [[0, 0, 1, 1]])],
    "whole-image": [(64, 96, [[0, 0, 96, 64]])],
    "more-boxes-than-queries": [(64, 96, [[2 * i, i, 2 * i + 20, i + 20] for i in range(38)])],
    "two-sizes": [(64, 96, [[8, 8, 40, 50]]), (40, 130, [[5, 5, 100, 30]])],
    "tiny-image": [(9, 7, [[1, 1, 6, 6]])],
    "twins": [(64, 96, [[8, 8, 40, 50]] * 3)],
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("padding", ["negatives", "mask"])
def test_awkward_batches_train(batch, padding):
    cfg = full()
    cfg.query_sources.customized.padding = padding
    model = build(cfg)
    inputs = [make_input(*sample, seed=i) for i, sample in enumerate(BATCHES[batch])]
    losses = train_step(model, inputs)
    assert_healthy(model, losses)
    if batch == "no-boxes":
        for name in losses:
            if name.split("_")[-1] != "centerness" and ("box" in name or "giou" in name):
                assert losses[name] == 0, name


@pytest.mark.parametrize("batch", BATCHES)
def test_awkward_batches_train_co_dino_of_one_class(batch):
    cfg = co_dino_config()
    cfg.num_classes = 1
    model = build(cfg)
    inputs = [make_input(*sample, seed=i) for i, sample in enumerate(BATCHES[batch])]
    for x in inputs:
        x["instances"].gt_classes.zero_()
    assert_healthy(model, train_step(model, inputs))
    with torch.no_grad():
        for found, x in zip(model.eval()(inputs), inputs):
            assert found["instances"].image_size == x["image"].shape[-2:]
            assert (found["instances"].pred_classes == 0).all()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("make", [conditional, dab])
def test_awkward_batches_train_single_scale_models(batch, make):
    model = build(make())
    inputs = [make_input(*sample, seed=i) for i, sample in enumerate(BATCHES[batch])]
    assert_healthy(model, train_step(model, inputs))


def test_losses_do_not_know_whether_an_empty_image_came_along():
    """Background adds to the class losses only; boxes are learned as from the image alone."""
    model = build(no_heads())
    image = make_input(64, 96, [[8, 8, 40, 50], [30, 4, 90, 60]], seed=1)
    alone = train_step(model, [image])
    together = train_step(model, [image, make_input(64, 96, [], seed=2)])
    for name in alone:
        if "class" in name:
            assert together[name] > alone[name]
        else:
            torch.testing.assert_close(together[name], alone[name], atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------------------------------
# padding and sizes


@pytest.mark.parametrize("branch", ["matching", "rcnn", "atss"])
def test_detections_do_not_depend_on_the_other_image(branch):
    """Neither on what it shows nor on whether it is there, as long as the padded size stays.

    With the padded size, detections change a little, as in the released models: convolutions of
    the backbone turn zeros beside the image into something else, the neck's group norm averages
    over the padding, and so do the auxiliary heads'; tokens in the padding may become proposals.
    """
    model = build(full(), eval_branch=branch).eval()
    small = make_input(60, 70, seed=1)
    with torch.no_grad():
        first = model([small, make_input(64, 96, seed=2)])[0]["instances"]
        second = model([small, make_input(64, 96, seed=3)])[0]["instances"]
        third = model([make_input(50, 96, seed=4), make_input(64, 30, seed=5), small])
    for other in (second, third[2]["instances"]):
        assert torch.equal(other.pred_classes, first.pred_classes)
        torch.testing.assert_close(other.scores, first.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(
            other.pred_boxes.tensor, first.pred_boxes.tensor, atol=1e-2, rtol=0
        )


def test_encoder_does_not_see_the_padding():
    """Tokens of an image are the same on a larger canvas, whatever its padding holds."""
    encoder = build(full()).encoder
    for layer in encoder.layers:  # zero at the start, and then all queries would look alike
        nn.init.normal_(layer.attention.sampling_offsets.weight, std=0.1)
        nn.init.normal_(layer.attention.attention_weights.weight, std=0.1)
    shapes, larger = [(8, 12), (4, 6), (2, 3), (1, 2)], [(16, 24), (8, 12), (4, 6), (2, 3)]
    maps = [torch.randn(1, 64, *shape) for shape in shapes]
    canvas = [10 * torch.randn(1, 64, *shape) for shape in larger]
    for big, small in zip(canvas, maps):
        big[:, :, : small.shape[2], : small.shape[3]] = small
    padding = padding_mask(torch.zeros(1, 3, 128, 192), [(64, 96)])
    with torch.no_grad():
        alone = encoder(maps, torch.zeros(1, 64, 96, dtype=torch.bool))
        padded = encoder(canvas, padding)
    assert padded.valid_cells.tolist() == alone.valid_cells.tolist()
    for big, small in zip(padded.maps(), alone.maps()):
        cropped = big[:, :, : small.shape[2], : small.shape[3]]
        torch.testing.assert_close(cropped, small, atol=1e-4, rtol=0)


def test_padding_mask_by_hand():
    mask = padding_mask(torch.zeros(2, 3, 2, 3), [(2, 3), (1, 2)])
    assert mask.int().tolist() == [[[0, 0, 0], [0, 0, 0]], [[0, 0, 1], [1, 1, 1]]]


def test_padding_counts_as_image_where_it_is_not_masked():
    model = build(full(), mask_padding=False)
    batch = usual_batch()
    images, sizes = model.preprocess(batch)
    assert images.shape[-2:] == (80, 96) and sizes == [(80, 96)] * 2
    seen = []
    model.encoder.register_forward_pre_hook(lambda _m, x: seen.append(x[1]))
    assert_healthy(model, train_step(model, batch))
    assert not seen[0].any()
    # without padding there is no difference
    masked = build(full()).eval()
    masked.load_state_dict(model.eval().state_dict())
    with torch.no_grad():
        one, other = (m([make_input(64, 96)])[0]["instances"] for m in (model, masked))
    assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)


@pytest.mark.parametrize("mask_padding", [True, False])
def test_detections_are_scaled_to_the_output(mask_padding, monkeypatch):
    model = build(no_heads(), mask_padding=mask_padding).eval()
    batch = usual_batch()  # 64 x 96 and 80 x 70
    batch[0] |= {"height": 128, "width": 288}

    def detect(memory, sizes, own_sizes):
        found = [Instances(size) for size in sizes]
        for x in found:
            x.pred_boxes = Boxes([[10.0, 20, 30, 40], [0, 0, 96, 80]])
            x.pred_boxes.clip(x.image_size)
            x.scores = torch.ones(2)
        return found

    monkeypatch.setattr(model, "detect", detect)
    with torch.no_grad():
        one, other = (result["instances"] for result in model(batch))
    assert one.image_size == (128, 288) and other.image_size == (80, 70)
    assert one.pred_boxes.tensor.tolist() == [[30, 40, 90, 80], [0, 0, 288, 128]]
    assert other.pred_boxes.tensor.tolist() == [[10, 20, 30, 40], [0, 0, 70, 80]]


def test_pixels_are_normalized_before_padding():
    model = build(no_heads(), pixel_mean=[1.0, 2.0, 3.0], pixel_std=[2.0, 4.0, 8.0])
    image = torch.tensor([5, 6, 11], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 2)
    images, sizes = model.preprocess([{"image": image}, {"image": torch.zeros(3, 3, 4)}])
    assert sizes == [(2, 2), (3, 4)]
    assert images[0, :, 0, 0].tolist() == [2.0, 1.0, 1.0]
    assert images[0, :, 2:].abs().sum() == 0 and images[0, :, :, 2:].abs().sum() == 0


# ---------------------------------------------------------------------------------------------
# two processes


def one_rank(rank, address, make, results):
    """Rank 0 has an image with boxes, rank 1 one without."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    model = nn.parallel.DistributedDataParallel(build(make()), find_unused_parameters=False)
    torch.manual_seed(rank)
    losses = model.train()([two_images()[rank]])
    sum(losses.values()).backward()
    gradients = {n: p.grad.numpy() for n, p in model.module.named_parameters() if p.requires_grad}
    results.put((rank, list(losses), gradients))
    dist.barrier()
    dist.destroy_process_group()


def two_images():
    boxes = [[8, 8, 40, 50], [30, 4, 90, 60]]
    return [make_input(64, 96, boxes, seed=1), make_input(64, 96, [], seed=2)]


@pytest.mark.parametrize("name", ["two-heads", "no-heads"])
def test_a_rank_without_boxes_trains_along(name, tmp_path):
    make = MODELS[name]
    context = mp.get_context("fork")
    results = context.SimpleQueue()
    address = f"file://{tmp_path / 'rendezvous'}"
    ranks = [
        context.Process(target=one_rank, args=(rank, address, make, results)) for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    (_, names, gradients), (_, other_names, other_gradients) = sorted(
        (results.get() for _ in ranks), key=lambda result: result[0]
    )
    for process in ranks:
        process.join(timeout=120)
    assert [process.exitcode for process in ranks] == [0, 0]
    assert names == other_names
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, other_gradients[key], msg=key)
    if name == "no-heads":  # nothing is random then: the same as one process with both images
        model = build(make())
        train_step(model, two_images())
        for key, gradient in gradients.items():
            expected = model.get_parameter(key).grad.numpy()
            torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3, msg=key)


# ---------------------------------------------------------------------------------------------
# reduced precision, and waiting for the device


@pytest.mark.parametrize("make", [co_deformable_detr_config, co_dino_config, conditional, dab])
def test_bfloat16_trains_alike(make):
    model, batch = build(make()), usual_batch()
    expected = sum(train_step(model, batch).values())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(0)
        losses = model(batch)
    model.zero_grad()
    sum(losses.values()).backward()
    assert_healthy(model, losses)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    # other proposals may be chosen, but as good ones
    torch.testing.assert_close(sum(losses.values()), expected, rtol=0.03, atol=0)


@pytest.mark.parametrize("make", [co_deformable_detr_config, co_dino_config, conditional, dab])
def test_the_decoder_copies_nothing_to_the_device(make, monkeypatch):
    """A tensor made of Python numbers is a copy, for which the host waits, six times per step."""
    model = build(make()).train()
    tensors_made = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "lift_fresh" in str(func):
                tensors_made.append(args[0].shape)
            return func(*args, **(kwargs or {}))

    original = model.decoder.forward

    def noted(groups, memory):
        with Noted():
            return original(groups, memory)

    monkeypatch.setattr(model.decoder, "forward", noted)
    model(usual_batch())
    # the sizes of the levels, once
    assert len(tensors_made) <= 1
