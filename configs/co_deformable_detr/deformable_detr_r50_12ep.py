"""Deformable-DETR, ResNet-50, 12 epochs: learned queries, no refinement (published: 37.1 AP)."""

from detectron2.config import LazyCall as L

from co_detr.modeling.queries.learned import LearnedQueries

from .co_deformable_detr_r50_12ep_k0 import dataloader, lr_multiplier, model, optimizer, train

del model.proposals
model.query_sources.matching = L(LearnedQueries)(
    num_queries=300, embed_dim="${...neck.out_channels}"
)
model.decoder.two_stage = model.decoder.refine = model.decoder.look_forward_twice = False
train.output_dir = "output/deformable_detr_r50_12ep"
