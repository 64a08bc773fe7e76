"""The page: everything measured, put into `page.html`."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from co_detr import __version__

from . import errors, measures, pictures, plots, thresholds
from .loading import MAX_DETECTIONS, Problem

SUSPECTS = 24  # of a kind that are shown
SUSPECT_KINDS = {
    "missing": ("Not labelled?", "Confident detections where no label is."),
    "class": ("Labelled as something else?", "Confident detections of another class on a label."),
    "never found": ("Never found", "Labels that no detection covers by half, however unsure."),
}
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


def render(
    problem: Problem,
    title: str,
    *,
    images: Path | None = None,
    precision: float | None = None,
    most_pictures: int = 12,
) -> str:
    """The report of an evaluation as HTML.

    Args:
        problem: annotations and detections.
        title: of the page.
        images: folder of the pictures; None shows none.
        precision: thresholds with this precision instead of the best F1.
        most_pictures: so many of the worst.
    """
    run = problem.evaluated()
    summary = measures.summary(run)
    rows = measures.by_class(problem, run)
    diagnosis = run.image_diagnostics()
    objects = {i: row.objects for i, row in rows.items()}
    chosen = thresholds.by_class(problem, diagnosis["dt_status"], objects, precision)
    scores = {i: threshold.score for i, threshold in chosen.items() if threshold is not None}
    found = problem.above(scores)
    kept = problem.evaluated(found)
    matrix = errors.confusion(kept)
    names = list(problem.names.values())
    calibration = run.calibration()
    by_iou, by_class = measures.curves(run)
    confusion_plot, classes_shown = plots.confusion(matrix, names)
    worst: list[pictures.Picture] = []
    unreadable: list[str] = []
    if images is not None:
        kept_diagnosis = kept.image_diagnostics()
        worst, unreadable = pictures.worst(
            problem,
            found.dataset["annotations"],
            kept_diagnosis["dt_status"],
            kept_diagnosis["gt_status"],
            images,
            most_pictures,
        )
    suspects = []
    for key, list_ in errors.suspects(problem, run, scores).items():
        shown = list_[:SUSPECTS]
        with_crops = (
            [(suspect, None) for suspect in shown]
            if images is None
            else pictures.crops(shown, problem, images, SUSPECTS)
        )
        suspects.append((*SUSPECT_KINDS[key], len(list_), with_crops))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "score": score, "number": number}
    return environment.get_template("page.html").render(
        title=title,
        version=__version__,
        problem=problem,
        limit=MAX_DETECTIONS[problem.rules],
        counts={
            "images": len(problem.files),
            "classes": len(names),
            "objects": sum(objects.values()),
            "detections": len(problem.found.dataset["annotations"]),
            "kept": len(found.dataset["annotations"]),
        },
        summary=summary,
        headline=[key for key in ("AP", "AP50", "AP75", *_last_recall(summary)) if key in summary],
        sizes=measures.by_size(problem, run),
        classes=[
            (rows[i], chosen[i], FREQUENCIES.get(problem.frequencies.get(i, ""))) for i in rows
        ],
        precision=precision,
        pr_plots=plots.precision_recall(by_iou, by_class, names),
        confusion_plot=confusion_plot,
        classes_shown=classes_shown,
        confusions=errors.confusions(matrix, names),
        kinds=errors.kinds(run, kept),
        calibration=calibration,
        reliability_plot=plots.reliability(calibration["bins"]),
        images=images,
        worst=worst,
        unreadable=unreadable,
        colours=pictures.COLOURS,
        suspects=suspects,
    )


def _last_recall(summary: dict[str, float]) -> list[str]:
    """The recall with most detections: AR100, or AR@300 for LVIS."""
    return [key for key in ("AR100", "AR@300") if key in summary]


def percent(value: float) -> str:
    """0.4391 -> 43.9; a dash where there is nothing."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def score(value: float) -> str:
    """Rounded down, so that what has just this score is kept."""
    return f"{np.floor(1000 * value) / 1000:.3f}"


def number(value: Any) -> str:
    """12345 -> 12,345."""
    return f"{value:,}"
