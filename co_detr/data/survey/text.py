"""A survey as text for the terminal."""

import numpy as np
from tabulate import tabulate

from .survey import Survey, SurveyedSplit


def as_text(found: Survey) -> str:
    """Tables of the splits and the classes, then faults and warnings."""
    names = [split.name for split in found.splits]
    parts = [
        f"{found.kind}, {len(found.classes)} classes",
        tabulate(split_rows(found), ["", *names], disable_numparse=True),
        tabulate(class_rows(found), ["objects of", *names], disable_numparse=True),
    ]
    parts += [f"fault: {text}" for text in found.faults]
    parts += [f"warning: {text}" for text in found.warnings]
    for split in found.splits:
        parts += [f"note: {split.name}: {text}" for text in split.notes]
    return "\n\n".join(parts[:3]) + "".join(f"\n{part}" for part in ["", *parts[3:]])


def split_rows(found: Survey) -> list[list[str]]:
    """What each split holds, a row per fact and a column per split."""
    facts = [facts_of(split) for split in found.splits]
    return [[name, *(fact[name] for fact in facts)] for name in facts[0]] if facts else []


def facts_of(split: SurveyedSplit) -> dict[str, str]:
    small, medium, large = split.sizes
    boxes = split.boxes[:, 2:]
    typical = " x ".join(f"{side:.0f}" for side in np.median(boxes, axis=0)) if len(boxes) else "-"
    return {
        "pictures": str(len(split.records)),
        "without objects": str(split.num_empty),
        "missing or unreadable": str(len(split.missing) + len(split.broken)),
        "objects": str(len(boxes)),
        "typical box, pixels": typical,
        "small, medium, large": f"{small}, {medium}, {large}",
        "masks": "yes" if split.has_masks else "no",
    }


def class_rows(found: Survey) -> list[list[str]]:
    """Objects by class, a column per split."""
    return [[name, *(str(s.objects[name]) for s in found.splits)] for name in found.classes]
