"""Co-H-Deformable-DETR in miniature on the digits dataset (K = 2).

120 one-to-many queries to which every object is matched three times, besides 40 for matching.
"""

from ..co_deformable_detr.co_deformable_detr_digits import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)
from ..common.models.hybrid import make_hybrid

make_hybrid(model, num_one_to_many=120, repeats=3)  # of 336 tokens
train.output_dir = "output/co_h_deformable_detr_digits"
