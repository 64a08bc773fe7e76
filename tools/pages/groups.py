"""The query groups that models make of pictures, with who sees whom, for figures."""

from collections.abc import Sequence
from dataclasses import dataclass

import co_detr  # isort: skip  # noqa: F401  (makes detectron2 importable)

import numpy as np
import torch
from detectron2.config import instantiate
from torch import Tensor

from co_detr.analysis.examples import annotated_loader, rgb
from co_detr.arguments import load_config
from co_detr.checkpoint.loading import load_for_inference
from co_detr.modeling.assignment import GroundTruth
from co_detr.modeling.detector import CoDETR
from co_detr.modeling.queries.group import QueryGroup, visibility


@dataclass(frozen=True, eq=False)
class Scene:
    """What a model makes of a picture in training.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        boxes: (G, 4) of the objects, normalized cxcywh.
        groups: of the picture alone (N = 1).
        num_classes: the background label.
    """

    picture: np.ndarray
    boxes: Tensor
    groups: list[QueryGroup]
    num_classes: int


@torch.no_grad()
def scene_of(
    config: str, image_id: int, overrides: Sequence[str] = (), weights: str | None = None
) -> Scene:
    """Build a model by its config and send it a picture of its validation set.

    Args:
        config: a file, or a name of the zoo.
        image_id: of the picture.
        overrides: changes of the config.
        weights: a checkpoint; None leaves the weights new, with which the groups are as many and
            see each other the same.
    """
    torch.manual_seed(0)
    words = ["train.device=cpu", "dataloader.test.num_workers=0", *overrides]
    cfg, _ = load_config(config, words)
    model: CoDETR = instantiate(cfg.model)
    if weights is not None:
        load_for_inference(model, weights)
    model.eval()  # batch norms of a single picture say nothing
    (example,) = next(iter(annotated_loader(cfg, image_ids=[image_id])))
    memory, sizes = model.encode([example])
    objects = model.instances_of([example])
    truth = GroundTruth.from_instances(objects, sizes)
    # in evaluation, some make the matching group alone, and rank no proposals for others
    for part in filter(None, (model.query_sources, model.proposals)):
        part.train()
    proposals = model.proposals(memory) if model.proposals is not None else None
    aux = model.assist(memory, sizes, objects) if model.assisted else {}
    groups = [
        group
        for source in model.query_sources.values()
        for group in source(memory, proposals, truth, aux)
    ]
    picture = rgb(example, model.image_format)
    return Scene(picture, truth.boxes[0], groups, model.num_classes)


def seen(groups: Sequence[QueryGroup]) -> np.ndarray:
    """(Q, Q) bool: which queries (columns) a query (row) sees, of all groups of one picture."""
    total = sum(group.num_queries for group in groups)
    matrix = torch.zeros(total, total, dtype=torch.bool)
    columns = torch.arange(total)
    for span in visibility(groups):
        keys = torch.cat([columns[part] for part in span.keys])
        rows = columns[span.queries]
        mask = torch.ones(len(rows), len(keys), dtype=torch.bool)
        if span.mask is not None:
            mask = span.mask[0, 0].expand_as(mask)
        matrix[rows[:, None], keys] = mask
    return matrix.numpy()
