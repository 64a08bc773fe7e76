"""Co-DAB-DETR with the last map of ResNet-50: Co-Conditional-DETR whose queries are anchor boxes
(K = 2)."""

from detectron2.config import LazyCall as L

from co_detr.modeling.queries.learned import AnchorQueries
from co_detr.modeling.transformer.dab_decoder import DABDecoder

from .co_conditional_detr_r50_c5 import model

model.encoder.position_encoding.temperature = 20.0
model.encoder.activation = "prelu"
model.encoder.scale_position = True
model.query_sources.matching = L(AnchorQueries)(
    num_queries=300, embed_dim="${...neck.out_channels}"
)
# the decoder computes positions from boxes, those of customized queries, too
model.query_sources.customized.fixed_position = False
model.decoder = L(DABDecoder)(
    num_classes="${..num_classes}",
    embed_dim="${..neck.out_channels}",
    num_layers=6,
    num_heads="${..encoder.num_heads}",
    ffn_dim="${..encoder.ffn_dim}",
    dropout="${..encoder.dropout}",
    activation="${..encoder.activation}",
)
