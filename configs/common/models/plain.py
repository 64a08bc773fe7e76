"""What turns Deformable-DETR++ back into Deformable-DETR."""

from detectron2.config import LazyCall as L

from co_detr.modeling.queries.learned import LearnedQueries


def make_plain(model):
    """Change a model to learned queries whose boxes are not refined from layer to layer."""
    del model.proposals
    model.query_sources.matching = L(LearnedQueries)(
        num_queries=300, embed_dim="${...neck.out_channels}"
    )
    model.decoder.two_stage = model.decoder.refine = model.decoder.look_forward_twice = False
