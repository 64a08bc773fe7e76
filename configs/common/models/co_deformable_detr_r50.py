"""Co-Deformable-DETR with ResNet-50: two-stage, mixed selection, refinement, look-forward-twice,
and two auxiliary heads, Faster R-CNN and ATSS (K = 2)."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet

from co_detr.modeling.assignment import HungarianMatcher
from co_detr.modeling.aux_heads.atss import ATSSHead
from co_detr.modeling.aux_heads.base import aux_loss_weight
from co_detr.modeling.aux_heads.rcnn import BoxHead, FasterRCNNHead
from co_detr.modeling.aux_heads.rpn import RPN
from co_detr.modeling.criterion import SetCriterion
from co_detr.modeling.detector import CoDETR
from co_detr.modeling.losses import FocalLoss
from co_detr.modeling.named_parts import named_parts
from co_detr.modeling.neck import ChannelMapper
from co_detr.modeling.postprocess import TopKDetections
from co_detr.modeling.queries.customized import CustomizedQueries
from co_detr.modeling.queries.learned import SelectedQueries
from co_detr.modeling.transformer.decoder import DeformableDecoder
from co_detr.modeling.transformer.encoder import DeformableEncoder
from co_detr.modeling.transformer.position_encoding import SinePositionEncoding
from co_detr.modeling.transformer.proposals import TwoStageProposals
from co_detr.modeling.transformer.pyramid import EncoderPyramid

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
        out_features=["res3", "res4", "res5"],
        freeze_at=2,
    ),
    neck=L(ChannelMapper)(
        in_features="${..backbone.out_features}",
        in_channels=[512, 1024, 2048],
        out_channels=256,  # C of the whole transformer
        num_outs=4,
    ),
    encoder=L(DeformableEncoder)(
        position_encoding=L(SinePositionEncoding)(embed_dim="${..embed_dim}"),
        embed_dim="${..neck.out_channels}",
        num_layers=6,
        num_heads=8,
        num_levels="${..neck.num_outs}",
        num_points=4,
        ffn_dim=2048,
    ),
    proposals=L(TwoStageProposals)(
        embed_dim="${..neck.out_channels}",
        num_classes="${..num_classes}",
        num_proposals="${..query_sources.matching.num_queries}",
        class_agnostic=True,
    ),
    pyramid=L(EncoderPyramid)(embed_dim="${..neck.out_channels}", num_extra=1),
    aux_heads=L(named_parts)(
        rcnn=L(FasterRCNNHead)(
            rpn=L(RPN)(
                in_channels="${....neck.out_channels}",
                strides=[8, 16, 32, 64, 128],
                anchor_scale=4.0,
            ),
            box_head=L(BoxHead)(
                in_channels="${....neck.out_channels}",
                num_classes="${....num_classes}",
                strides=[8, 16, 32, 64],
                finest_scale=112,
            ),
            loss_weight=AUX_LOSS_WEIGHT,
        ),
        atss=L(ATSSHead)(
            in_channels="${...neck.out_channels}",
            num_classes="${...num_classes}",
            strides=[8, 16, 32, 64, 128],
            anchor_scale=8.0,
            loss_weight=AUX_LOSS_WEIGHT,
        ),
    ),
    query_sources=L(named_parts)(
        matching=L(SelectedQueries)(num_queries=300, embed_dim="${...neck.out_channels}"),
        customized=L(CustomizedQueries)(
            num_classes="${...num_classes}",
            embed_dim="${...neck.out_channels}",
            max_queries=300,
            weight="${...lambda_1}",
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
    ),
    criterion=L(SetCriterion)(
        num_classes="${..num_classes}",
        matcher=L(HungarianMatcher)(class_cost=2.0, l1_cost=5.0, giou_cost=2.0),
        class_loss=L(FocalLoss)(alpha=0.25, gamma=2.0),
        class_weight=2.0,
        l1_weight=5.0,
        giou_weight=2.0,
    ),
    postprocess=L(TopKDetections)(max_detections=100),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    image_format="RGB",
)
