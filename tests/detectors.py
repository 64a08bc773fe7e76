"""Shrunken detectors of every kind, and a training step of theirs on small images."""

import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from golden import co_deformable_detr_config, co_dino_config, single_scale_config

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
