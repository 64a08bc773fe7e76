"""The tables of the paper that compare models trained alike, and the data sets for them.

Published figures are from the paper, on COCO val; those of H-Deformable-DETR are from its text and
from Table 7.
"""

from .components import BRANCHES, COMPONENTS, LONGER_SCHEDULES, LOSS_WEIGHTS, STACKED_CONVS
from .systems import EACH_HEAD, NUMBER_OF_HEADS, PLAIN_BASELINES, STRONG_BASELINES
from .tables import DIGITS_ITERATIONS, DataSet

# On digits a single scale takes longer to learn, as on COCO.
SINGLE_SCALE = (
    "train.max_iter=1200",
    "train.eval_period=400",
    "train.checkpointer.period=200",
    "dataloader.train.total_batch_size=4",
)

DATA_SETS = {
    "coco": DataSet("coco", overrides=(), schedules={}, epochs=True),
    "digits": DataSet(
        "digits",
        overrides=(
            f"train.max_iter={DIGITS_ITERATIONS}",
            "train.eval_period=100",
            "train.log_period=20",
            "train.checkpointer.period=50",
            "train.checkpointer.max_to_keep=10",
            "dataloader.train.num_workers=1",
            "dataloader.test.num_workers=1",
        ),
        schedules={"conditional_detr/": SINGLE_SCALE, "dab_detr/": SINGLE_SCALE},
        epochs=False,
    ),
}

TABLES = {
    table.number: table
    for table in (
        PLAIN_BASELINES,
        STRONG_BASELINES,
        NUMBER_OF_HEADS,
        EACH_HEAD,
        COMPONENTS,
        LONGER_SCHEDULES,
        BRANCHES,
        STACKED_CONVS,
        LOSS_WEIGHTS,
    )
}
