"""Tables 9 to 13 of the paper: what the method is made of, its schedule, branches and weights."""

from .rows import BY_K, MINIATURE_NOTE, PLAIN, PLUS, miniature, row
from .tables import DIGITS_ITERATIONS, Evaluation, Model, Section, Table

WITHOUT_QUERIES = ("model.customized_queries=False",)
WITHOUT_LOSSES = ("model.aux_losses=False",)


def _components(epochs: int, published, *, digits: bool) -> Section:
    """Losses and customized queries of one head, each with and without."""
    return Section(
        "Deformable-DETR",
        tuple(
            row(
                *(losses, queries, epochs),
                published=figures,
                coco=Model(f"{PLAIN}_r50_{epochs}ep" + (f"_{head}" if head else ""), overrides),
                digits=Model(miniature(head), overrides) if digits else None,
            )
            for (losses, queries, head, overrides), figures in zip(
                (
                    ("no", "no", None, ()),
                    ("yes", "no", "atss", WITHOUT_QUERIES),
                    ("no", "yes", "atss", WITHOUT_LOSSES),
                    ("yes", "yes", "atss", ()),
                ),
                published,
            )
        ),
    )


COMPONENTS = Table(
    number=9,
    title="losses of the auxiliary head (ATSS) and customized queries on Deformable-DETR",
    labels=("auxiliary head", "customized queries", "epochs"),
    published=("AP", "AP50", "AP75"),
    sections=(
        _components(
            12,
            ((37.1, 55.5, 40.0), (41.6, 59.8, 45.6), (40.5, 58.8, 44.4), (42.3, 60.5, 46.1)),
            digits=True,
        ),
        _components(
            36,
            ((43.3, 62.3, 47.1), (46.2, 64.7, 50.9), (45.3, 63.5, 49.8), (46.8, 65.1, 51.5)),
            digits=False,
        ),
    ),
    notes=(MINIATURE_NOTE,),
)

COCO_ITERATIONS = 7393  # of an epoch, at 16 images

LONGER_SCHEDULES = Table(
    number=10,
    title="one auxiliary head (ATSS) against longer schedules on Deformable-DETR",
    labels=("method", "K", "epochs"),
    published=("AP", "GPU hours"),
    sections=(
        Section(
            "Deformable-DETR",
            (
                row(
                    *("Deformable-DETR", 1, 36),
                    published=(46.8, 288),
                    coco=f"{PLAIN}_r50_36ep_atss",
                    digits=miniature("atss"),
                ),
                *(
                    row(
                        *("Deformable-DETR", 0, epochs),
                        published=published,
                        coco=Model(
                            f"{PLAIN}_r50_36ep", (f"train.max_iter={epochs * COCO_ITERATIONS}",)
                        ),
                        digits=Model(
                            miniature(None),
                            (f"train.max_iter={round(DIGITS_ITERATIONS * epochs / 36)}",),
                        ),
                    )
                    for epochs, published in (
                        (50, (44.5, 333)),
                        (100, (46.0, 667)),
                        (150, (45.9, 1000)),
                    )
                ),
            ),
        ),
    ),
    notes=(
        "The whole schedule of learning rates stretches with the number of iterations (warm-up, "
        "and the drop after 5/6 of them on COCO, the cosine on digits); the periods of evaluation "
        "stay.",
        MINIATURE_NOTE,
    ),
)

SOFT_NMS = "{_target_: co_detr.ops.soft_nms.SoftNMS, method: linear, iou_threshold: 0.8}"
OF_DECODER = Evaluation("matching_soft_nms", (f"model.postprocess.suppression={SOFT_NMS}",))


def _of_head(head: str, *, nms: bool) -> Evaluation:
    """The evaluation of an auxiliary head, without its NMS if so wanted."""
    overrides: tuple[str, ...] = (f"model.eval_branch={head}",)
    if not nms:
        overrides += (f"model.aux_heads.{head}.nms_threshold=1.0",)  # no IoU is above
    return Evaluation(head if nms else f"{head}_without_nms", overrides)


def _branch(branch, nms, by_k) -> Section:
    """A branch for some K: {K: (published, config for COCO, config for digits, evaluation)}."""
    return Section(
        f"{branch}, {'NMS' if nms != 'no' else 'no NMS'}",
        tuple(
            row(
                *(branch, nms, K),
                published=published,
                coco=Model(coco, (), evaluation),
                digits=Model(digits, (), evaluation),
            )
            for K, (published, coco, digits, evaluation) in by_k.items()
        ),
    )


def _decoder_branch(nms: str, published, evaluation: Evaluation | None) -> Section:
    return _branch(
        "Deformable-DETR++",
        nms,
        {
            K: (published[K], f"{PLUS}_r50_12ep{BY_K[K]}", f"{PLUS}_digits{BY_K[K]}", evaluation)
            for K in range(3)
        },
    )


def _head_branch(title: str, head: str, *, nms: bool, published: dict) -> Section:
    """A head on the encoder: alone (K = 0), and in models that have it as an auxiliary head."""
    evaluation = _of_head(head, nms=nms)
    alone = f"encoder_heads/encoder_{head}"
    by_k = {}
    for K, figure in published.items():
        if K == 0:  # that training evaluates the head itself
            own = None if nms else evaluation
            by_k[K] = (figure, f"{alone}_r50_12ep", f"{alone}_digits", own)
        else:
            ending = BY_K[K]
            by_k[K] = (figure, f"{PLUS}_r50_12ep{ending}", f"{PLUS}_digits{ending}", evaluation)
    return _branch(title, "yes" if nms else "no", by_k)


BRANCHES = Table(
    number=11,
    title="every branch of Deformable-DETR++ by itself, with and without NMS",
    labels=("branch", "NMS", "K"),
    across="K",
    sections=(
        _decoder_branch("no", (47.1, 48.7, 49.5), None),
        _decoder_branch("soft", (None,) * 3, OF_DECODER),
        _head_branch("ATSS", "atss", nms=True, published={0: 46.8, 1: 47.4, 2: 48.0}),
        _head_branch("ATSS", "atss", nms=False, published={0: None, 1: None, 2: None}),
        _head_branch("Faster R-CNN", "rcnn", nms=True, published={0: 45.9, 2: 46.7}),
        _head_branch("Faster R-CNN", "rcnn", nms=False, published={0: None, 2: None}),
    ),
    notes=(
        "A model is trained once and evaluated by each of its branches. K = 0 of a head is that "
        "head alone on the encoder, without a decoder.",
        "NMS at IoU 0.6 (ATSS) and 0.5 (Faster R-CNN); for the decoder soft-NMS at 0.8, as the "
        "released Co-DINO has it. K = 1 has no Faster R-CNN.",
    ),
)

STACKED_CONVS = Table(
    number=12,
    title="stacked convolutions in the auxiliary head (ATSS) of Deformable-DETR",
    labels=("convolutions",),
    sections=(
        Section(
            "Deformable-DETR, ATSS",
            tuple(
                row(
                    number,
                    published=published,
                    coco=Model(f"{PLAIN}_r50_12ep_atss", overrides),
                    digits=Model(miniature("atss"), overrides),
                )
                for number, published in enumerate((41.8, 42.3, 41.9, 42.1, 42.3, 42.0))
                # one is what the head has anyway
                for overrides in [
                    (f"model.aux_heads.atss.num_convs={number}",) if number != 1 else ()
                ]
            ),
            base=1,
        ),
    ),
    notes=(MINIATURE_NOTE,),
)


def _weights(lambda_1: float, lambda_2: float) -> tuple[str, ...]:
    """Overrides for the loss weights of equation 5; none for the defaults, 1 and 2."""
    weights = (("lambda_1", lambda_1, 1.0), ("lambda_2", lambda_2, 2.0))
    return tuple(f"model.{name}={value}" for name, value, usual in weights if value != usual)


LOSS_WEIGHTS = Table(
    number=13,
    title="loss weights of the customized queries (lambda 1) and the auxiliary head (lambda 2)",
    labels=("lambda 1", "lambda 2", "epochs"),
    published=("AP", "APs", "APm", "APl"),
    metrics=("AP", "AP50", "AP75", "APs", "APm", "APl"),
    sections=(
        Section(
            "Deformable-DETR, ATSS",
            tuple(
                row(
                    *(lambda_1, lambda_2, 36),
                    published=published,
                    coco=Model(f"{PLAIN}_r50_36ep_atss", _weights(lambda_1, lambda_2)),
                    digits=Model(miniature("atss"), _weights(lambda_1, lambda_2)),
                )
                for lambda_1, lambda_2, published in (
                    (0.25, 2.0, (46.2, 28.3, 49.7, 60.4)),
                    (0.5, 2.0, (46.6, 29.0, 50.5, 61.2)),
                    (1.0, 2.0, (46.8, 28.1, 50.6, 61.3)),
                    (2.0, 2.0, (46.1, 27.4, 49.7, 61.4)),
                    (1.0, 1.0, (46.1, 27.9, 49.7, 60.9)),
                    # the text of the paper leaves open which figure its APl is
                    (1.0, 3.0, (46.5, 29.3, 50.4, None)),
                )
            ),
            base=2,
        ),
    ),
    notes=(MINIATURE_NOTE,),
)
