"""What shrinks a model to the trees dataset: a small trained backbone, three levels, one class."""

from detectron2.config import LazyCall as L

from co_detr.data.trees import backbone_weights
from co_detr.modeling.backbone.timm_backbone import TimmBackbone
from co_detr.ops.soft_nms import NMS


def shrink(model):
    """Change a Co-DINO for COCO into a small one for trees (K = 2)."""
    model.num_classes = 1
    model.backbone = L(TimmBackbone)(
        model_name="tf_efficientnet_lite0",
        out_indices=[2, 3, 4],  # strides 8, 16, 32
        out_names=["res3", "res4", "res5"],
        checkpoint_path=L(backbone_weights)(),
        freeze_at=3,
        frozen_norm=True,
    )
    model.pixel_mean = model.pixel_std = [127.5, 127.5, 127.5]  # what the backbone was trained on
    model.neck.in_features = ["res3", "res4", "res5"]
    model.neck.in_channels = [40, 112, 320]
    model.neck.out_channels = 128
    model.neck.num_outs = 3
    model.encoder.num_layers = 2
    model.decoder.num_layers = 3
    model.encoder.ffn_dim = 256
    model.criterion.class_weight = 4.0
    model.query_sources.matching.content_std = 0.02
    model.query_sources.matching.num_queries = 300
    model.query_sources.denoising.num_queries = 200
    model.query_sources.customized.max_queries = 100
    model.postprocess.max_detections = 300  # before suppression
    model.postprocess.suppression = L(NMS)(iou_threshold=0.5)

    rcnn, atss = model.aux_heads.rcnn, model.aux_heads.atss
    rcnn.rpn.strides = atss.strides = [8, 16, 32, 64]
    rcnn.rpn.anchor_scale = atss.anchor_scale = 4.0
    rcnn.rpn.pre_nms_topk = (300, 300)
    rcnn.rpn.post_nms_topk = (200, 200)
    rcnn.rpn.samples_per_image = 256
    rcnn.box_head.strides = [8, 16, 32]
    rcnn.box_head.fc_dim = 256
    rcnn.samples_per_image = 64
    rcnn.detections_per_image = atss.detections_per_image = 100
