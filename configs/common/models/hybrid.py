"""What adds queries to the matching queries in training: H-DETR's and Group DETR's schemes."""

from detectron2.config import LazyCall as L

from co_detr.modeling.queries.hybrid import GroupedQueries, HybridQueries


def make_hybrid(model, num_one_to_many=1500, repeats=6):
    """Change a two-stage model to one with one-to-many queries from the next proposals, too."""
    model.query_sources.matching._target_ = HybridQueries
    model.query_sources.matching.num_one_to_many = num_one_to_many
    model.query_sources.matching.repeats = repeats
    model.proposals.num_extra = "${..query_sources.matching.num_one_to_many}"


def make_grouped(model, num_groups=3):
    """Change a one-stage Deformable-DETR (see `make_plain`) to one with groups of queries."""
    model.query_sources.matching = L(GroupedQueries)(
        num_groups=num_groups,
        num_queries=model.query_sources.matching.num_queries,
        embed_dim="${...neck.out_channels}",
    )
