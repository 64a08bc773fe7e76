"""Conversion of the released models with masks, without content."""

import pytest
from zoo import RELEASES, build_on_meta, meta_model, release

from co_detr.checkpoint.official import convert_official, official_table
from co_detr.checkpoint.rename import ConversionError, rename


@pytest.mark.parametrize(
    "name, theirs, ours",
    [
        (
            "co_deformable_detr_mask_r50_1x_coco",
            "roi_head.0.mask_head.convs.2.conv.bias",
            "aux_heads.rcnn.mask_head.convs.2.bias",
        ),
        (
            "co_deformable_detr_mask_r50_1x_coco",
            "roi_head.0.mask_head.conv_logits.weight",
            "aux_heads.rcnn.mask_head.predictor.weight",
        ),
        (
            "co_dino_5scale_vit_large_coco_instance",
            "mask_head.semantic_convs.1.norm_layer.bias",
            "instance_mask.mask_head.semantic_convs.1.norm.bias",
        ),
        (
            "co_dino_5scale_vit_large_coco_instance",
            "mask_head.stages.1.fuse_conv.1.dilation_conv_3.conv.weight",  # the dilation is 5
            "instance_mask.mask_head.stages.1.dilated.2.weight",
        ),
        (
            "co_dino_5scale_lsj_vit_large_lvis_instance",
            "mask_iou_head.fc_mask_iou.weight",
            "instance_mask.iou_head.predictor.weight",
        ),
    ],
)
def test_some_names_by_hand(name, theirs, ours):
    model = meta_model(RELEASES[name])
    report = rename(release(name), official_table(model), model.state_dict())[1]
    assert dict(report)[theirs] == ours


def test_a_model_without_masks_refuses_weights_with_masks():
    name = "co_deformable_detr_mask_r50_1x_coco"
    model = build_on_meta(RELEASES[name], **{"aux_heads.rcnn.mask_head": None})
    with pytest.raises(ConversionError, match=r"model lacks \(12\):\n  aux_heads.rcnn.mask_head"):
        convert_official(release(name), model)
