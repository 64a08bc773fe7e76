"""The parts of a forward pass that figures look into; the model is in evaluation mode.

Letters: N images, Q queries, L layers, S encoder tokens.
"""

from collections.abc import Sequence
from typing import TypeGuard, cast

from detectron2.structures import Instances
from torch import Tensor, nn

from co_detr.modeling.assignment import GroundTruth, MatchingProblem
from co_detr.modeling.base_detector import Detector
from co_detr.modeling.criterion import SetCriterion
from co_detr.modeling.detector import CoDETR
from co_detr.modeling.queries.group import QueryGroup
from co_detr.modeling.transformer.decoder import Predictions
from co_detr.modeling.transformer.encoder import EncoderMemory

Size = tuple[int, int]


def encode(model: Detector, examples: Sequence[dict]) -> tuple[EncoderMemory, list[Size]]:
    """The encoder's output for a batch, and what counts as each image's (height, width)."""
    return model.encode(list(examples))


def has_decoder(model: nn.Module) -> TypeGuard[CoDETR]:
    """False for heads on the encoder alone."""
    return getattr(model, "decoder", None) is not None


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
    matcher = cast(SetCriterion, model.criterion).matcher
    return matcher({"matching": problem}, ground_truth)["matching"]


def assigned_samples(
    model: Detector, memory: EncoderMemory, sizes: Sequence[Size], objects: Sequence[Instances]
) -> dict[str, list[Instances]]:
    """What each auxiliary head labels in each image, as in training: `AuxOutput.samples` by head.

    Heads that draw a sample of their candidates draw it from torch's global generator.

    Raises:
        ValueError: the model has no auxiliary heads that assign labels in training.
    """
    aux = model.assist(memory, list(sizes), list(objects)) if model.aux_heads else {}
    if not aux:
        raise ValueError("the model has no auxiliary heads that assign labels in training")
    return {head: output.samples for head, output in aux.items()}


def objects_of(model: Detector, examples: Sequence[dict]) -> list[Instances]:
    """The objects of a batch of `examples.annotated_loader`, on the device of the model."""
    return model.instances_of(list(examples))


def levels_of(tokens: Tensor, spatial_shapes: Sequence[Size]) -> list[Tensor]:
    """Split values of the encoder's tokens (S,) of one image into its levels, (H_l, W_l) each."""
    levels = tokens.split([height * width for height, width in spatial_shapes])
    return [level.view(shape) for level, shape in zip(levels, spatial_shapes)]
