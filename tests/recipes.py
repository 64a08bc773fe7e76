"""What the paper and the release say of each configuration, one row each, written down by hand.

Training settings of the digits and trees models are ours; they have no row.
"""

from dataclasses import dataclass

COCO, LVIS, OBJECTS365 = 118287, 100170, 1742289  # training images
DETR, LARGE = (800, 1333), (1280, 2048)


@dataclass(frozen=True)
class Recipe:
    """Settings of a training; the defaults are those of Co-Deformable-DETR with ResNet-50.

    Attributes:
        drops: epochs after which the learning rate is divided by ten.
        slow: parts of names whose learning rate is a tenth; None = layer-wise decay.
        denoising: number of queries and box noise.
        test: shorter and longer side at most; the side of the canvas twice.
    """

    epochs: int
    drops: tuple[int, ...]
    classes: int = 80
    images: int = COCO
    batch: int = 16
    lr: float = 2e-4
    weight_decay: float = 1e-4
    slow: tuple[str, ...] | None = ("backbone.", "sampling_offsets", "reference_points")
    drop_path: float | None = None
    queries: int | None = 300
    denoising: tuple[int, float] | None = None
    test: tuple[int, int] = DETR
    canvas: bool = False
    detections: int = 100
    warmup: int = 0
    ema: bool = False


def _deformable(epochs, drop, **settings):
    return Recipe(epochs, (drop,), **settings)


def _swin(epochs, drop_path, **settings):
    drop = {12: 11, 36: 30}[epochs]
    return Recipe(epochs, (drop,), weight_decay=0.05, drop_path=drop_path, **settings)


def _dino(epochs, *drops, **settings):
    defaults = dict(slow=("backbone.",), queries=900, denoising=(100, 1.0), detections=300)
    return Recipe(epochs, drops, **(defaults | settings))


def _lsj(side):
    return dict(test=(side, side), canvas=True)


_FINE_TUNED = dict(lr=1e-4, drop_path=0.3, denoising=(500, 0.4))
_VIT = dict(batch=64, lr=5e-5, denoising=(300, 0.4), detections=1000, warmup=500)
_VIT_COCO = _VIT | dict(
    weight_decay=0.01, slow=None, drop_path=0.4, queries=1500, test=LARGE, ema=True
)
_LVIS = dict(classes=1203, images=LVIS)
_VIT_LVIS = _VIT | _LVIS | _lsj(1536) | dict(weight_decay=0.05, drop_path=0.3)

RECIPES: dict[str, Recipe] = {
    f"co_deformable_detr/{name}": recipe
    for name, recipe in {
        **{
            f"deformable_detr_r50_12ep{heads}": _deformable(12, 11)
            for heads in ("", "_atss", "_k2")
        },
        "co_deformable_detr_r50_12ep_k0": _deformable(12, 11),
        "co_deformable_detr_r50_12ep_k1": _deformable(12, 11),
        "co_deformable_detr_r50_12ep": _deformable(12, 11),
        "co_deformable_detr_r50_12ep_atss_paa": _deformable(12, 11),
        "co_deformable_detr_r50_12ep_k3": _deformable(12, 11),
        "co_deformable_detr_r50_12ep_k6": _deformable(12, 11),
        "co_deformable_detr_r50_36ep": _deformable(36, 30),
        **{
            f"deformable_detr_r50_36ep_{head}": _deformable(36, 30)
            for head in ("atss", "fcos", "gfl", "mask_rcnn", "paa", "rcnn", "retinanet", "k2")
        },
        "deformable_detr_r50_36ep": _deformable(36, 30),
        "group_deformable_detr_r50_36ep": _deformable(36, 30),
        "co_deformable_detr_mask_r50_12ep": _deformable(12, 11),
        "co_deformable_detr_swin_tiny_12ep": _swin(12, 0.2),
        **{
            f"co_deformable_detr_swin_{size}_12ep_k{k}": _swin(12, drop_path)
            for size, drop_path in (("tiny", 0.2), ("base", 0.2), ("large", 0.3))
            for k in (0, 1)
        },
        "co_deformable_detr_swin_tiny_36ep": _swin(36, 0.3),
        "co_deformable_detr_swin_small_12ep": _swin(12, 0.2),
        "co_deformable_detr_swin_small_36ep": _swin(36, 0.4),
        "co_deformable_detr_swin_base_12ep": _swin(12, 0.2),
        "co_deformable_detr_swin_base_36ep": _swin(36, 0.4),
        "co_deformable_detr_swin_large_12ep": _swin(12, 0.3),
        "co_deformable_detr_swin_large_900q_36ep": _swin(36, 0.6, queries=900, detections=300),
    }.items()
} | {
    f"co_dino/co_dino_{name}": recipe
    for name, recipe in {
        **{
            f"r50_{scales}scale_12ep{heads}": _dino(12, 11)
            for scales in (4, 5)
            for heads in ("", "_k0", "_k1")
        },
        "r50_5scale_lsj_12ep": _dino(12, 11, **_lsj(1024)),
        "r50_5scale_lsj_36ep": _dino(36, 30, **_lsj(1024)),
        "r50_5scale_lsj_9enc_12ep": _dino(12, 11, **_lsj(1024)),
        "r50_5scale_lsj_9enc_36ep": _dino(36, 30, **_lsj(1024)),
        "r50_5scale_12ep_lvis": _dino(12, 11, **_LVIS),
        "r50_5scale_lsj_12ep_lvis": _dino(12, 11, **_LVIS, **_lsj(1024)),
        **{
            f"swin_large_5scale_12ep{heads}": _dino(12, 11, drop_path=0.3)
            for heads in ("", "_k0", "_k1")
        },
        "swin_large_5scale_24ep": _dino(24, 20, drop_path=0.5),
        "swin_large_5scale_36ep": _dino(36, 30, drop_path=0.6),
        "swin_large_5scale_lsj_12ep": _dino(12, 11, drop_path=0.3, **_lsj(1280)),
        "swin_large_5scale_lsj_24ep": _dino(24, 20, drop_path=0.5, **_lsj(1280)),
        "swin_large_5scale_lsj_36ep": _dino(36, 30, drop_path=0.5, **_lsj(1280)),
        "swin_large_5scale_lsj_36ep_lvis": _dino(36, 30, drop_path=0.5, **_LVIS, **_lsj(1280)),
        "swin_large_5scale_16ep_o365tococo": _dino(16, 8, **_FINE_TUNED, test=LARGE),
        "swin_large_5scale_lsj_16ep_o365tolvis": _dino(16, 8, **_FINE_TUNED, **_LVIS, **_lsj(1536)),
        "vit_large_5scale_12ep": _dino(12, 7, **_VIT_COCO),
        "vit_large_5scale_12ep_instance": _dino(12, 7, **_VIT_COCO),
        "vit_large_5scale_lsj_16ep_lvis": _dino(16, 9, 15, **_VIT_LVIS),
        "vit_large_5scale_lsj_16ep_lvis_instance": _dino(16, 9, 15, **_VIT_LVIS),
        "vit_large_5scale_o365_26ep": _dino(
            26,
            24,
            **_VIT_COCO
            | dict(classes=365, images=OBJECTS365, batch=224, lr=2.5e-4, ema=False)
            | dict(denoising=(1000, 1.0)),
        ),
        "vit_large_5scale_lsj_o365_26ep": _dino(
            26,
            24,
            **_VIT_LVIS
            | dict(classes=365, images=OBJECTS365, batch=192, lr=2e-4, denoising=(1000, 1.0))
            | _lsj(1280),
        ),
    }.items()
}

RECIPES |= {
    f"{family}_detr/co_{family}_detr_r50_c5_36ep{heads}": Recipe(
        36, (30,), lr=1e-4, slow=("backbone.",)
    )
    for family in ("conditional", "dab")
    for heads in ("", "_k0", "_k1")
}

RECIPES |= {
    f"h_deformable_detr/{name}": _deformable(12, 11)
    for name in (
        "h_deformable_detr_r50_12ep",
        "co_h_deformable_detr_r50_12ep_k1",
        "co_h_deformable_detr_r50_12ep",
    )
}

RECIPES |= {
    f"encoder_heads/encoder_{name}": _deformable(epochs, drop, queries=None)
    for name, epochs, drop in (
        ("atss_r50_12ep", 12, 11),
        ("atss_r50_36ep", 36, 30),
        ("rcnn_r50_12ep", 12, 11),
    )
}
