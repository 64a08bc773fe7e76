"""Catches slips of the pen in overrides of a config."""

import difflib
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf


def new_keys(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """A warning for each override whose key the config does not have yet.

    Overrides may create keys, so a misspelt one changes nothing, in silence. Not reported are keys
    of calls, which refuse what they do not know, and overrides written as "+key=value".

    Args:
        cfg: before the overrides are applied.
        overrides: "key.subkey=value" in hydra's grammar.
    """
    warnings = []
    for override in overrides:
        node, path = cfg, ""
        for part in override.partition("=")[0].split("."):
            if not isinstance(node, DictConfig) or "_target_" in node or part.startswith("+"):
                break
            path = f"{path}.{part}".lstrip(".")
            keys = [str(key) for key in node]
            if part not in keys:
                close = difflib.get_close_matches(part, keys) or keys
                warnings.append(
                    f"{override}: the config had no key '{path}', so this may have no effect. "
                    f"Close or known keys: {', '.join(close)}. Write +{override} if it is meant"
                )
                break
            node = OmegaConf.select(cfg, path, throw_on_resolution_failure=False)
    return warnings
