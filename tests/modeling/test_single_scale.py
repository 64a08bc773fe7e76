"""Single-scale DETRs: the dense encoder, the pyramid around one level, and the learned queries.

Their decoders are in test_decoder.py, whole models in test_detector.py, and what `transformers`
makes of the same weights in test_transformers_parity.py.
"""

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from co_detr import model_zoo
from co_detr.modeling.base_detector import padding_mask
from co_detr.modeling.neck import ChannelMapper
from co_detr.modeling.queries.learned import AnchorQueries, PointQueries
from co_detr.modeling.transformer.attention import FeedForward
from co_detr.modeling.transformer.dense_encoder import DenseEncoder
from co_detr.modeling.transformer.encoder import EncoderMemory
from co_detr.modeling.transformer.position_encoding import SinePositionEncoding
from co_detr.modeling.transformer.pyramid import EncoderPyramid

C = 16
ENCODERS = {
    "conditional": dict(),
    "dab": dict(activation="prelu", scale_position=True),
}


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return DenseEncoder(
        position_encoding=SinePositionEncoding(embed_dim=C, offset=0.0),
        embed_dim=C,
        num_layers=2,
        num_heads=4,
        ffn_dim=32,
        **ENCODERS[request.param],
    )


def memory_of(feature):
    """Memory of one level without padding from a map (N, C, H, W)."""
    N, _, H, W = feature.shape
    return EncoderMemory(
        feature.flatten(2).transpose(1, 2),
        torch.zeros(N, H * W, dtype=torch.bool),
        [(H, W)],
        torch.tensor([[[float(W), float(H)]]]).expand(N, 1, 2),
    )


# ---------------------------------------------------------------------------------------------
# encoder


def test_an_image_is_encoded_as_if_there_were_no_padding(encoder):
    small = torch.randn(1, C, 3, 4)
    canvas = 10 * torch.randn(1, C, 5, 6)
    canvas[:, :, :3, :4] = small
    encoder.eval()
    with torch.no_grad():
        alone = encoder([small], torch.zeros(1, 96, 128, dtype=torch.bool))
        padded = encoder([canvas], padding_mask(torch.zeros(1, 3, 160, 192), [(96, 128)]))
    assert padded.spatial_shapes == [(5, 6)] and padded.padding.sum() == 30 - 12
    assert padded.valid_cells.tolist() == alone.valid_cells.tolist() == [[[4.0, 3.0]]]
    (cropped,), (expected,) = padded.maps(), alone.maps()
    torch.testing.assert_close(cropped[:, :, :3, :4], expected, atol=1e-5, rtol=0)
    positions = padded.position.view(1, 5, 6, C)[:, :3, :4]
    torch.testing.assert_close(positions.flatten(1, 2), alone.position)


def test_dropout_is_of_training_alone(encoder):
    feature, padding = torch.randn(1, C, 3, 3), torch.zeros(1, 96, 96, dtype=torch.bool)
    with torch.no_grad():
        one, other = (encoder.train()([feature], padding).tokens for _ in range(2))
        assert not torch.allclose(one, other, atol=1e-2)
        one, other = (encoder.eval()([feature], padding).tokens for _ in range(2))
    assert torch.equal(one, other)


def test_more_than_one_scale_is_refused(encoder):
    maps = [torch.zeros(1, C, 4, 4), torch.zeros(1, C, 2, 2)]
    with pytest.raises(ValueError, match="2 maps for an encoder of a single scale"):
        encoder(maps, torch.zeros(1, 32, 32, dtype=torch.bool))


def test_unknown_activations_are_refused():
    with pytest.raises(ValueError, match='"relu" or "prelu", got \'gelu\''):
        FeedForward(activation="gelu")


def test_a_neck_without_norm_is_a_projection():
    neck = ChannelMapper(
        in_features=["x"], in_channels=[2], out_channels=3, num_outs=1, num_groups=None, bias=True
    )
    nn.init.ones_(neck.convs[0].bias)
    x = torch.randn(1, 2, 4, 5)
    (level,) = neck({"x": x})
    expected = torch.einsum("oi,nihw->nohw", neck.convs[0].weight[:, :, 0, 0], x) + 1
    torch.testing.assert_close(level, expected)


# ---------------------------------------------------------------------------------------------
# pyramid


def test_levels_around_a_single_scale():
    pyramid = EncoderPyramid(embed_dim=C, num_extra=2, num_finer=2, num_groups=4)
    maps = pyramid(memory_of(torch.randn(2, C, 5, 7)))
    shapes = [tuple(level.shape) for level in maps]
    assert shapes == [(2, C, *s) for s in ((20, 28), (10, 14), (5, 7), (3, 4), (2, 2))]


def test_finer_levels_are_bilinear():
    pyramid = EncoderPyramid(embed_dim=1, num_extra=0, num_finer=2, num_groups=1)
    for conv in pyramid.finer:
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
        conv.norm = nn.Identity()
    middle = torch.tensor([[0.0, 4], [8, 12]])
    _, fine, unchanged = pyramid(memory_of(middle[None, None]))
    assert torch.equal(unchanged[0, 0], middle)
    expected = [[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]]
    torch.testing.assert_close(fine[0, 0], torch.tensor(expected).float())


# ---------------------------------------------------------------------------------------------
# queries


def test_points_are_computed_from_positions():
    source = PointQueries(num_queries=3, embed_dim=C)
    nn.init.zeros_(source.points[2].weight)
    source.points[2].bias.data = torch.tensor([0.0, 2.0])
    (group,) = source(memory_of(torch.randn(2, C, 1, 1)))
    assert group.name == "matching" and not group.content.any()
    assert torch.equal(group.position[0], source.embedding.weight)
    points = torch.tensor([0.5, 1 / (1 + torch.tensor(-2.0).exp().item())])
    torch.testing.assert_close(group.reference, points.expand(2, 3, 2))


def test_anchors_may_start_all_over_the_image():
    source = AnchorQueries(num_queries=1000, embed_dim=C, initial_size=0.3)
    (group,) = source(memory_of(torch.randn(1, C, 1, 1)))
    torch.testing.assert_close(group.reference[..., 2:], torch.full((1, 1000, 2), 0.3))
    quarters = torch.histc(group.reference[..., :2], bins=4, min=0, max=1) / 2000
    torch.testing.assert_close(quarters, torch.full((4,), 0.25), atol=0.05, rtol=0)
    assert source.anchors.weight.requires_grad
    with pytest.raises(ValueError, match="between 0 and 1, got 1.5"):
        AnchorQueries(initial_size=1.5)


def test_anchors_are_learned_in_logit_space():
    source = AnchorQueries(num_queries=2, embed_dim=C)
    source.anchors.weight.data = torch.tensor([[0.0, 1, -1, 2], [3, 0, 0, 0]])
    (group,) = source(memory_of(torch.randn(2, C, 1, 1)))
    assert group.position is None and group.content.shape == (2, 2, C)
    assert not group.content.any()
    expected = torch.tensor([[0.5, 0.7311, 0.2689, 0.8808], [0.9526, 0.5, 0.5, 0.5]])
    torch.testing.assert_close(group.reference, expected.expand(2, 2, 4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["conditional", "dab"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_predictions_in_half_precision_are_those_of_float32(name, dtype):
    cfg = model_zoo.get_config(f"{name}_detr/co_{name}_detr_digits_k0")
    model, seen = instantiate(cfg.model).eval(), []
    model.decoder.register_forward_hook(lambda *args: seen.append(args[-1]["matching"]))
    images = [{"image": torch.randint(0, 256, (3, h, 128), dtype=torch.uint8)} for h in (128, 96)]
    with torch.no_grad():
        model(images)
        model.to(dtype)(images)
    full, half = seen
    eps = torch.finfo(dtype).eps  # of logits around -4.6 a rounding costs up to 2 eps
    assert (half.logits.float() - full.logits).abs().max() < 10 * eps < full.logits.std()
    assert half.boxes.dtype == torch.float32  # a learned place, rounded with its weight
    assert (half.boxes - full.boxes).abs().max() < eps / 2
