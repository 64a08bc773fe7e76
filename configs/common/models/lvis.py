"""What turns a model for COCO into one for LVIS v1."""

from detectron2.config import LazyCall as L

from co_detr.modeling.fed_loss import FederatedClasses


def use_lvis_classes(model):
    """1203 classes, of which 50 are trained on in each step (FedLoss); changes `model`.

    Their logits for all anchors, and images of up to 300 objects, want memory: what follows the
    attention in the layers of the encoder is computed twice instead of kept.
    """
    model.num_classes = 1203
    model.encoder.ffn_tokens_at_once = 8192
    model.criterion.federated = L(FederatedClasses)(
        num_classes="${...num_classes}",
        num_sampled=50,
        power=0.5,
        dataset="${dataloader.train.dataset.names}",
    )
