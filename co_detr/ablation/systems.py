"""Tables 2, 3, 7 and 8 of the paper: detectors, and numbers and kinds of auxiliary heads."""

from .rows import BY_K, MINIATURE_NOTE, PLAIN, PLUS, by_heads, miniature, row
from .tables import Section, Table

SYSTEM = ("method", "K", "epochs")
PLAIN_BY_K = ("", "_atss", "_k2")

PLAIN_BASELINES = Table(
    number=2,
    title="plain baselines with K auxiliary heads",
    labels=SYSTEM,
    sections=(
        by_heads(
            "Conditional-DETR-C5",
            36,
            (39.4, 41.5, 41.8),
            "conditional_detr/co_conditional_detr_r50_c5_36ep",
            "conditional_detr/co_conditional_detr_digits",
        ),
        by_heads(
            "DAB-DETR-C5",
            36,
            (41.2, 43.1, 43.5),
            "dab_detr/co_dab_detr_r50_c5_36ep",
            "dab_detr/co_dab_detr_digits",
        ),
        by_heads(
            "Deformable-DETR",
            12,
            (37.1, 42.3, 42.9),
            f"{PLAIN}_r50_12ep",
            f"{PLAIN}_digits",
            PLAIN_BY_K,
        ),
        by_heads(
            "Deformable-DETR", 36, (43.3, 46.8, 46.5), f"{PLAIN}_r50_36ep", endings=PLAIN_BY_K
        ),
    ),
)

STRONG_BASELINES = Table(
    number=3,
    title="strong baselines with K auxiliary heads",
    labels=SYSTEM,
    sections=(
        by_heads("Deformable-DETR++", 12, (47.1, 48.7, 49.5), f"{PLUS}_r50_12ep", f"{PLUS}_digits"),
        Section(
            "H-Deformable-DETR",
            tuple(
                row(
                    *("H-Deformable-DETR", K, 12),
                    published=published,
                    coco=f"h_deformable_detr/{coco}",
                    digits=f"h_deformable_detr/co_h_deformable_detr_digits{BY_K[K]}",
                )
                for K, published, coco in (
                    (0, 48.4, "h_deformable_detr_r50_12ep"),
                    (1, 49.2, "co_h_deformable_detr_r50_12ep_k1"),
                    (2, 49.7, "co_h_deformable_detr_r50_12ep"),
                )
            ),
        ),
        by_heads(
            "DINO-Deformable-DETR",
            12,
            (49.4, 51.0, 51.2),
            "co_dino/co_dino_r50_5scale_12ep",
            "co_dino/co_dino_digits",
        ),
        by_heads("Deformable-DETR++, Swin-L", 12, (55.2, 56.4, 56.9), f"{PLUS}_swin_large_12ep"),
        by_heads(
            "DINO-Deformable-DETR, Swin-L",
            12,
            (58.5, 59.3, 59.5),
            "co_dino/co_dino_swin_large_5scale_12ep",
        ),
    ),
    notes=(
        "The configs of DINO are the released ones, with quality focal loss and soft-NMS, which "
        "the paper says of its Table 4 only.",
        "H-Deformable-DETR is not in the paper's table; its figures are from the text.",
    ),
)

NUMBER_OF_HEADS = Table(
    number=7,
    title="number and choice of auxiliary heads on Deformable-DETR++",
    labels=("method", "K", "auxiliary heads"),
    published=("AP", "memory (MB)", "GPU hours"),
    costs=True,
    sections=(
        Section(
            "Deformable-DETR++ and H-Deformable-DETR",
            (
                row(
                    *("Deformable-DETR++", 0, "-"),
                    published=(47.1, 12808, 70),
                    coco=f"{PLUS}_r50_12ep_k0",
                    digits=f"{PLUS}_digits_k0",
                ),
                row(
                    *("H-Deformable-DETR", 0, "-"),
                    published=(48.4, 15307, 104),
                    coco="h_deformable_detr/h_deformable_detr_r50_12ep",
                    digits="h_deformable_detr/co_h_deformable_detr_digits_k0",
                ),
                *(
                    row(
                        *("Deformable-DETR++", K, heads),
                        published=published,
                        coco=f"{PLUS}_r50_12ep{ending}",
                        digits=f"{PLUS}_digits{ending}",
                    )
                    for K, heads, ending, published in (
                        (1, "ATSS", "_k1", (48.7, 13947, 86)),
                        (2, "ATSS + PAA", "_atss_paa", (49.0, 14629, 124)),
                        (2, "ATSS + Faster R-CNN", "", (49.5, 14387, 120)),
                        (3, "ATSS + Faster R-CNN + PAA", "_k3", (49.5, 15263, 150)),
                        (
                            6,
                            "ATSS + Faster R-CNN + PAA + RetinaNet + FCOS + GFL",
                            "_k6",
                            (48.9, 19385, 280),
                        ),
                    )
                ),
            ),
        ),
    ),
    notes=(
        "Memory: most that was allocated on the GPU of one process. Time: median of an iteration, "
        "comparable where the runs had equal cores or GPUs to themselves.",
    ),
)

EACH_HEAD = Table(
    number=8,
    title="each auxiliary head alone (K = 1) on Deformable-DETR",
    labels=("auxiliary head", "epochs"),
    published=("AP", "AP50", "AP75"),
    sections=(
        Section(
            "each head alone",
            (
                row(
                    *("none", 36),
                    published=(43.3, 62.3, 47.1),
                    coco=f"{PLAIN}_r50_36ep",
                    digits=miniature(None),
                ),
                *(
                    row(
                        *(title, 36),
                        published=published,
                        coco=f"{PLAIN}_r50_36ep_{head}",
                        digits=miniature(head),
                    )
                    for title, head, published in (
                        ("RetinaNet", "retinanet", (46.1, 64.2, 50.1)),
                        ("Faster R-CNN", "rcnn", (46.3, 64.7, 50.5)),
                        ("Mask R-CNN", "mask_rcnn", (46.5, 65.0, 50.6)),
                        ("FCOS", "fcos", (46.5, 64.8, 50.7)),
                        ("PAA", "paa", (46.5, 64.6, 50.7)),
                        ("GFL", "gfl", (46.5, 65.0, 51.0)),
                        ("ATSS", "atss", (46.8, 65.1, 51.5)),
                    )
                ),
            ),
        ),
        Section(
            "groups of queries",
            (
                row(
                    *("none (Deformable-DETR)", 36),
                    published=(43.3, 62.3, 47.1),
                    coco=f"{PLAIN}_r50_36ep",
                    digits=f"{PLAIN}_digits",
                ),
                row(
                    *("none, 3 groups of queries (Group-DETR)", 36),
                    published=(44.6, None, None),
                    coco="co_deformable_detr/group_deformable_detr_r50_36ep",
                    digits="co_deformable_detr/group_deformable_detr_digits",
                ),
            ),
        ),
    ),
    notes=(
        f"{MINIATURE_NOTE} The last two are of Deformable-DETR there, too.",
        "Group-DETR is not in the paper's table; its figure is from the supplement.",
    ),
)
