"""Co-Conditional-DETR with the last map of ResNet-50: dense attention over one scale, queries with
learned positions, and the pyramid of the auxiliary heads built from that scale (K = 2)."""

from detectron2.config import LazyCall as L

from co_detr.modeling.queries.learned import PointQueries
from co_detr.modeling.transformer.conditional_decoder import ConditionalDecoder
from co_detr.modeling.transformer.dense_encoder import DenseEncoder
from co_detr.modeling.transformer.position_encoding import SinePositionEncoding

from .co_deformable_detr_r50 import model

model.backbone.out_features = ["res5"]
model.neck.in_channels = [2048]
model.neck.num_outs = 1
model.neck.num_groups = None
model.neck.bias = True
model.encoder = L(DenseEncoder)(
    position_encoding=L(SinePositionEncoding)(
        embed_dim="${..embed_dim}", temperature=10000.0, offset=0.0
    ),
    embed_dim="${..neck.out_channels}",
    num_layers=6,
    num_heads=8,
    ffn_dim=2048,
    dropout=0.1,
)
del model.proposals
# strides 8, 16 from 32, then 64, 128
model.pyramid.num_finer = model.pyramid.num_extra = 2
model.query_sources.matching = L(PointQueries)(num_queries=300, embed_dim="${...neck.out_channels}")
model.decoder = L(ConditionalDecoder)(
    num_classes="${..num_classes}",
    embed_dim="${..neck.out_channels}",
    num_layers=6,
    num_heads="${..encoder.num_heads}",
    ffn_dim="${..encoder.ffn_dim}",
    dropout="${..encoder.dropout}",
)
