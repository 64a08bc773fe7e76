"""What leaves a model's auxiliary heads alone on its encoder."""

from co_detr.modeling.encoder_detector import EncoderDetector


def keep_encoder_heads(model, *heads):
    """Take the decoder, and all auxiliary heads but these, out of a Co-DETR.

    Args:
        model: changed; `model.eval_branch` says which of several heads detects.
        heads: names of auxiliary heads of the model.
    """
    model._target_ = EncoderDetector
    decoder = ("proposals", "query_sources", "decoder", "criterion", "postprocess", "instance_mask")
    for key in (*decoder, "lambda_1", "lambda_2"):
        model.pop(key, None)
    for name in set(model.aux_heads) - {"_target_", *heads}:
        del model.aux_heads[name]
    for name in heads:
        # as a detector of its own, not beside a decoder, whose layers multiply it
        model.aux_heads[name].loss_weight = 1.0
        model.aux_heads[name].sample_features = False
