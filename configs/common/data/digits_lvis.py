"""The digits in LVIS format: one rare, three common and six frequent ones; with repeat factors."""

from .digits import dataloader
from .lvis import use_lvis

use_lvis(dataloader)
dataloader.train.dataset.names = "digits_lvis_train"
dataloader.train.repeat_threshold = 0.1
dataloader.test.dataset.names = "digits_lvis_val"
