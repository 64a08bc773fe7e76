"""Co-DINO with ResNet-50, five scales: Co-Deformable-DETR with DINO's query selection, decoder,
denoising queries and losses, and soft-NMS (K = 2: Faster R-CNN and ATSS)."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet

from co_detr.modeling.assignment import HungarianMatcher
from co_detr.modeling.aux_heads.atss import ATSSHead
from co_detr.modeling.aux_heads.base import aux_loss_weight
from co_detr.modeling.aux_heads.rcnn import BoxHead, FasterRCNNHead
from co_detr.modeling.aux_heads.rpn import RPN
from co_detr.modeling.criterion import SetCriterion
from co_detr.modeling.detector import CoDETR
from co_detr.modeling.losses import QualityFocalLoss
from co_detr.modeling.named_parts import named_parts
from co_detr.modeling.neck import ChannelMapper
from co_detr.modeling.postprocess import TopKDetections
from co_detr.modeling.queries.customized import CustomizedQueries
from co_detr.modeling.queries.denoising import DenoisingQueries
from co_detr.modeling.queries.learned import SelectedQueries
from co_detr.modeling.transformer.decoder import DeformableDecoder
from co_detr.modeling.transformer.encoder import DeformableEncoder
from co_detr.modeling.transformer.position_encoding import SinePositionEncoding
from co_detr.modeling.transformer.proposals import TwoStageProposals
from co_detr.modeling.transformer.pyramid import EncoderPyramid
from co_detr.ops.soft_nms import SoftNMS

AUX_LOSS_WEIGHT = L(aux_loss_weight)(
    lambda_2="${....lambda_2}", num_layers="${....decoder.num_layers}"
)

model = L(CoDETR)(
    # the one place for each: the parts below point here
    num_classes=80,
    lambda_1=1.0,
    lambda_2=2.0,
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="FrozenBN"),
        out_features=["res2", "res3", "res4", "res5"],
        freeze_at=2,
    ),
    neck=L(ChannelMapper)(
        in_features="${..backbone.out_features}",
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,  # C of the whole transformer
        num_outs=5,
    ),
    encoder=L(DeformableEncoder)(
        position_encoding=L(SinePositionEncoding)(
            embed_dim="${..embed_dim}", temperature=20.0, offset=0.0
        ),
        embed_dim="${..neck.out_channels}",
        num_layers=6,
        num_heads=8,
        num_levels="${..neck.num_outs}",
        num_points=4,
        ffn_dim=2048,
        num_checkpointed=0,  # up to num_layers: less memory, more time
    ),
    proposals=L(TwoStageProposals)(
        embed_dim="${..neck.out_channels}",
        num_classes="${..num_classes}",
        num_proposals="${..query_sources.matching.num_queries}",
        class_agnostic=False,
    ),
    pyramid=L(EncoderPyramid)(embed_dim="${..neck.out_channels}", num_extra=1),
    aux_heads=L(named_parts)(
        rcnn=L(FasterRCNNHead)(
            rpn=L(RPN)(
                in_channels="${....neck.out_channels}",
                strides=[4, 8, 16, 32, 64, 128],
                anchor_scale=4.0,
            ),
            box_head=L(BoxHead)(
                in_channels="${....neck.out_channels}",
                num_classes="${....num_classes}",
                strides=[4, 8, 16, 32, 64],
                finest_scale=56,
            ),
            loss_weight=AUX_LOSS_WEIGHT,
            sample_features=False,
        ),
        atss=L(ATSSHead)(
            in_channels="${...neck.out_channels}",
            num_classes="${...num_classes}",
            strides=[4, 8, 16, 32, 64, 128],
            anchor_scale=8.0,
            loss_weight=AUX_LOSS_WEIGHT,
            sample_features=False,
        ),
    ),
    query_sources=L(named_parts)(
        matching=L(SelectedQueries)(
            num_queries=900, embed_dim="${...neck.out_channels}", fixed_position=False
        ),
        denoising=L(DenoisingQueries)(
            num_classes="${...num_classes}",
            embed_dim="${...neck.out_channels}",
            num_queries=100,
            label_noise=0.5,
            box_noise=1.0,
            eps="${...decoder.eps}",
        ),
        customized=L(CustomizedQueries)(
            num_classes="${...num_classes}",
            embed_dim="${...neck.out_channels}",
            max_queries=300,
            weight="${...lambda_1}",
            use_features=False,
            fixed_position=False,
        ),
    ),
    decoder=L(DeformableDecoder)(
        num_classes="${..num_classes}",
        embed_dim="${..neck.out_channels}",
        num_layers=6,
        num_heads="${..encoder.num_heads}",
        num_levels="${..neck.num_outs}",
        num_points="${..encoder.num_points}",
        ffn_dim="${..encoder.ffn_dim}",
        dino=True,
        eps=1e-3,
    ),
    criterion=L(SetCriterion)(
        num_classes="${..num_classes}",
        matcher=L(HungarianMatcher)(class_cost=2.0, l1_cost=5.0, giou_cost=2.0),
        class_loss=L(QualityFocalLoss)(beta=2.0),
        class_weight=1.0,
        l1_weight=5.0,
        giou_weight=2.0,
    ),
    postprocess=L(TopKDetections)(
        max_detections=300,
        suppression=L(SoftNMS)(method="linear", iou_threshold=0.8),
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    image_format="RGB",
)
