"""What the tables' rows have in common: names of configs, and short ways to write rows."""

from .tables import Model, Row, Section

BY_K = ("_k0", "_k1", "")  # endings of the configs of a family with K = 0, 1, 2
PLUS = "co_deformable_detr/co_deformable_detr"
PLAIN = "co_deformable_detr/deformable_detr"


MINIATURE_NOTE = (
    "On digits the rows are of Deformable-DETR++: in so few iterations Deformable-DETR learns too "
    "little to tell heads apart."
)


def miniature(head: str | None) -> str:
    """The config on digits for the ablations of Deformable-DETR: with one head, or without any."""
    if head is None:
        return f"{PLUS}_digits_k0"
    return f"{PLUS}_digits_k1" if head == "atss" else f"{PLUS}_digits_{head}"


def row(*labels, published=(None,), coco: str | Model | None = None, digits=None) -> Row:
    """A row; a model without changes may be given by its config's name, one figure by itself."""
    models = {"coco": coco, "digits": digits}
    return Row(
        labels,
        published if isinstance(published, tuple) else (published,),
        {
            name: Model(model) if isinstance(model, str) else model
            for name, model in models.items()
            if model is not None
        },
    )


def by_heads(method, epochs, published, coco, digits=None, endings=BY_K) -> Section:
    """K = 0, 1, 2 of a method; the names of the configs differ in their `endings`."""
    return Section(
        method,
        tuple(
            row(
                method,
                K,
                epochs,
                published=published[K],
                coco=coco + endings[K],
                digits=digits and digits + endings[K],
            )
            for K in range(3)
        ),
    )
