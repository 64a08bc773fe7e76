"""Forms in which evaluation results are handed on."""

import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log results as comma separated lines that can be pasted into a spreadsheet.

    Args:
        results: {task: {metric: value}}, or {name: value} for single numbers. Metrics whose name
            holds a "-" (one category's AP) are left out.
    """
    assert isinstance(results, Mapping), f"results must be a mapping, got {type(results)}"
    for task, values in results.items():
        if not isinstance(values, Mapping):
            logger.info("copypaste: %s=%s", task, values)
            continue
        main = {name: value for name, value in values.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(main))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in main.values()))


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Turn {"bbox": {"AP": 1}} into {"bbox/AP": 1}, at any depth."""
    flat: dict[str, Any] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{k}": v for k, v in flatten_results_dict(value).items()})
        else:
            flat[name] = value
    return flat
