"""Co-Deformable-DETR, Swin-L, 900 queries, 36 epochs, K = 2 (published: 58.5 AP)."""

from ..common.schedule import ITERATIONS_PER_EPOCH, step_schedule
from .co_deformable_detr_swin_large_12ep import dataloader, model, optimizer, train

model.backbone.drop_path_rate = 0.6
model.query_sources.matching.num_queries = 900
model.postprocess.max_detections = 300
train.output_dir = "output/co_deformable_detr_swin_large_900q_36ep"
train.max_iter = 36 * ITERATIONS_PER_EPOCH
lr_multiplier = step_schedule(36, drops=[30])
