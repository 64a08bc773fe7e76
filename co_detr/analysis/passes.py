"""The parts of a forward pass that figures look into; the model is in evaluation mode.

Letters: N images, Q queries, L layers.
"""

from collections.abc import Sequence

from detectron2.structures import Instances
from torch import Tensor

from co_detr.modeling.assignment import GroundTruth, MatchingProblem
from co_detr.modeling.detector import CoDETR, padding_mask
from co_detr.modeling.queries.group import QueryGroup
from co_detr.modeling.transformer.decoder import Predictions
from co_detr.modeling.transformer.encoder import EncoderMemory

Size = tuple[int, int]


def encode(model: CoDETR, examples: Sequence[dict]) -> tuple[EncoderMemory, list[Size]]:
    """The encoder's output for a batch, and what counts as each image's (height, width)."""
    images, sizes = model.preprocess(list(examples))
    return model.encoder(model.neck(model.backbone(images)), padding_mask(images, sizes)), sizes


def decode(model: CoDETR, memory: EncoderMemory) -> tuple[QueryGroup, Predictions]:
    """The matching queries, which alone serve inference, and what the decoder says of them."""
    proposals = model.proposals(memory) if model.proposals is not None else None
    group = model.query_sources["matching"](memory, proposals, None, {})[0]
    return group, model.decoder([group], memory)[group.name]


def match(model: CoDETR, predictions: Predictions, ground_truth: GroundTruth) -> Tensor:
    """(L, N, Q): the object that each query is matched to, one-to-one in every layer.

    Objects are numbered through the batch, image after image; -1 for queries without one.
    """
    problem = MatchingProblem(predictions.logits, predictions.boxes)
    return model.criterion.matcher({"matching": problem}, ground_truth)["matching"]


def objects_of(model: CoDETR, examples: Sequence[dict]) -> list[Instances]:
    """The objects of a batch of `examples.annotated_loader`, on the device of the model."""
    return [example["instances"].to(model.device) for example in examples]
