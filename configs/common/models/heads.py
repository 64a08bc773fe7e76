"""What changes the auxiliary heads of a model."""

import copy


def dense_head(model, head, **options):
    """Another dense head with what the model's ATSS head is told: channels, strides, weight, ...

    Args:
        model: config of a model with an ATSS head.
        head: class of the head.
        options: of the head, where they differ.
    """
    config = copy.deepcopy(model.aux_heads.atss)
    config._target_ = head
    config.update(options)
    return config
