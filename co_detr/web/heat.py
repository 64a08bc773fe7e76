"""Heat maps of a picture: what the encoder makes of it, and what a branch detects by.

Letters: H and W, a picture's height and width in pixels.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from co_detr.analysis.head_maps import DETR_HEAD, head_maps, prepared_heads
from co_detr.analysis.passes import encode, has_decoder
from co_detr.analysis.score_maps import feature_scores
from co_detr.inference.detector import Detector
from co_detr.modeling import base_detector

ENCODER, BRANCH = "encoder", "branch"
COLOURS = "turbo"
OPACITY = 0.55  # of the colours over the picture


def kinds_of(model: nn.Module) -> list[str]:
    """The heat maps that there are of a model; none of one that is not ours."""
    if not isinstance(model, base_detector.Detector):
        return []
    return [BRANCH, ENCODER] if has_decoder(model) else [ENCODER]


def heat_map(detector: Detector, image: np.ndarray, kind: str, branch: str) -> np.ndarray:
    """Where the encoder's features are strong, or what speaks for a branch's detections.

    The former is the discriminability score of the paper's section 3.4, the latter Grad-CAM as in
    its section 4.4.

    Args:
        detector: of a model that has such a map, see `kinds_of`.
        image: (H, W, 3) in RGB.
        kind: ENCODER or BRANCH.
        branch: of the model's `branches`; for the latter.

    Returns:
        (H, W), from 0, the coldest place of the picture, to 1; all 0 of one that is equally warm
        everywhere.
    """
    model, example = detector.model, detector.input_of(image)
    assert isinstance(model, base_detector.Detector)  # others have no map
    batch, (valid,) = model.preprocess([example])
    (size,) = base_detector.input_sizes([example])
    if kind == ENCODER:
        with torch.no_grad():
            memory, _ = encode(model, [example])
        levels = [level[0] for level in memory.maps()]
        heat = feature_scores(levels, (batch.shape[-2], batch.shape[-1]), size)
    else:
        assert has_decoder(model)  # else there is no such map
        head = DETR_HEAD if branch == "matching" else branch
        with prepared_heads(model):
            cells = head_maps(model, [example], [head])[0][0]
        # to models that do not tell padding from image, it is warm or cold, too
        heat = _resized(cells, valid)[: size[0], : size[1]]
    heat = _resized(heat.float().cpu(), image.shape[:2])
    heat = heat - heat.min()
    return (heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)).numpy()


def with_heat(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 RGB, gray, under the colours of a heat map (H, W)."""
    from matplotlib import colormaps

    gray = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float32)[:, :, None]
    colours = colormaps[COLOURS](heat, bytes=True)[:, :, :3]
    return np.rint((1 - OPACITY) * gray + OPACITY * colours).astype(np.uint8)


def _resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]
