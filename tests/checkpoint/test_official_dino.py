"""Conversion of what only Co-DINO has, on the R50 model without content."""

import pytest
from zoo import RELEASES, meta_model, release

from co_detr.checkpoint.official import convert_official, official_table
from co_detr.checkpoint.rename import ConversionError, rename

R50 = "co_dino_5scale_r50_1x_coco"


def test_names_of_what_only_dino_has():
    model = meta_model(RELEASES[R50])
    report = dict(rename(release(R50), official_table(model), model.state_dict())[1])
    transformer = "query_head.transformer."
    for theirs, ours in {
        "query_head.label_embedding.weight": "query_sources.denoising.label_embedding.weight",
        transformer + "query_embed.weight": "query_sources.matching.content.weight",
        transformer + "decoder.norm.weight": "decoder.norm.weight",
        transformer + "decoder.ref_point_head.0.weight": "decoder.position_mlp.0.weight",
        transformer + "decoder.ref_point_head.2.bias": "decoder.position_mlp.2.bias",
        transformer + "aux_pos_trans_norm.1.bias": "query_sources.customized.encode.1.norm.bias",
        "neck.convs.3.conv.weight": "neck.convs.3.weight",
        "bbox_head.0.scales.5.scale": "aux_heads.atss.scales.5",
    }.items():
        assert report[theirs] == ours


def test_the_wrong_depth_is_refused():
    source = release("co_dino_5scale_9encoder_lsj_r50_1x_coco")
    with pytest.raises(ConversionError, match=r"model lacks \(48\):\n  encoder.layers.6.attention"):
        convert_official(source, meta_model(RELEASES[R50]))
