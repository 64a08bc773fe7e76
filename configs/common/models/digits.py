"""What shrinks a model to the digits dataset: three levels of 128x128 images, two layers."""

from .resnet18_narrow import backbone


def shrink(model):
    """Change a Co-Deformable-DETR or Co-DINO for COCO into its miniature for digits (K = 2)."""
    model.num_classes = 10
    model.backbone = backbone
    model.neck.in_channels = [48, 96, 192]
    model.neck.out_channels = 64
    model.neck.num_outs = 3
    model.encoder.num_layers = model.decoder.num_layers = 2
    model.encoder.num_heads = 4
    model.encoder.ffn_dim = 128
    model.query_sources.matching.num_queries = 40
    model.query_sources.customized.max_queries = 60
    model.postprocess.max_detections = 40

    rcnn, atss = model.aux_heads.rcnn, model.aux_heads.atss
    rcnn.rpn.strides = atss.strides = [8, 16, 32, 64]
    rcnn.rpn.anchor_scale = 2.0
    rcnn.rpn.pre_nms_topk = (150, 150)
    rcnn.rpn.post_nms_topk = (100, 100)
    rcnn.rpn.samples_per_image = 128
    rcnn.box_head.strides = [8, 16, 32]
    rcnn.box_head.finest_scale = 28
    rcnn.box_head.fc_dim = 128
    rcnn.samples_per_image = 32
    rcnn.positive_fraction = 0.5
    rcnn.detections_per_image = atss.detections_per_image = 40
    atss.anchor_scale = 4.0


def shrink_single_scale(model):
    """As `shrink`, for models of the backbone's last map; of stride 16, as 32 leaves 4x4 cells."""
    shrink(model)
    model.backbone.stages[-1].stride_per_block = [1, 1]
    model.backbone.out_features = ["res5"]
    model.neck.in_channels = [192]
    model.neck.num_outs = 1
    model.encoder.dropout = 0.0
    model.pyramid.num_finer, model.pyramid.num_extra = 1, 2
