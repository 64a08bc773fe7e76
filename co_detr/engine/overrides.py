"""Changes of a config from the command line: key=value, where any text is a value."""

import ast
import difflib
from collections.abc import Sequence
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Change values of a config, as `LazyConfig.apply_overrides` does, but with any text as value.

    Args:
        cfg: changed in place. Dictionaries are merged, lists replaced, new keys created.
        overrides: "key.subkey=value" or "+key.subkey=value"; later ones win.

    Returns:
        Warnings of likely slips of the pen: of keys that the config did not have, and of text where
        a number, list or section was.

    Raises:
        ValueError: a word is no override, or its key leads into a value that has no keys.
    """
    warnings = new_keys(cfg, overrides)
    for override in overrides:
        key, text = _split(override)
        _check_parents(cfg, key, override)
        value = parse_value(text)
        before = OmegaConf.select(cfg, key, throw_on_resolution_failure=False)
        if isinstance(value, str) and not isinstance(before, str | None) and "${" not in value:
            warnings.append(
                f"{override}: '{key}' was {_kind(before)} and is now the text {value!r}"
            )
        try:
            OmegaConf.update(cfg, key, value, merge=True)
        except GrammarParseError:  # "${" that begins no interpolation is text like any other
            OmegaConf.update(cfg, key, value.replace("${", "\\${"), merge=True)
    return warnings


def parse_value(text: str) -> Any:
    """What stands behind the "=" of an override.

    Numbers, booleans, null, quoted text, lists and dictionaries as in hydra's grammar; lists,
    tuples and dictionaries as YAML and Python write them; `None`; all else is the text itself.
    """
    if text == "None":
        return None
    try:
        parsed = OverridesParser.create().parse_override(f"key={text}")
        # "a,b" and "range(1,3)" would be sweeps, which are nothing for a single run
        if not parsed.is_sweep_override() and parsed.key_or_group == "key":
            return parsed.value()
    except HydraException:
        pass
    for opening, parse in (("[{", yaml.safe_load), ("(", ast.literal_eval)):
        if text and text[0] in opening:
            try:
                value = parse(text)
            except (yaml.YAMLError, ValueError, SyntaxError):
                continue
            if isinstance(value, list | dict | tuple):
                return list(value) if isinstance(value, tuple) else value
    return text


def new_keys(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """A warning for each override whose key the config does not have yet.

    Overrides may create keys, so a misspelt one changes nothing, in silence. Not reported are keys
    of calls, which refuse what they do not know, and overrides written as "+key=value".

    Args:
        cfg: before the overrides are applied.
        overrides: as for `apply_overrides`.
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


def _split(override: str) -> tuple[str, str]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip("+ "):
        raise ValueError(
            f"{override!r} does not change the config: write key=value, such as optimizer.lr=1e-4"
        )
    if key.startswith("~"):
        raise ValueError(f"{override!r}: keys cannot be deleted; set the value to null instead")
    return key.strip("+ "), text


def _check_parents(cfg: DictConfig, key: str, override: str) -> None:
    parts = key.split(".")
    for end in range(1, len(parts)):
        prefix = ".".join(parts[:end])
        parent = OmegaConf.select(cfg, prefix, throw_on_resolution_failure=False)
        if parent is None:
            return
        if not OmegaConf.is_config(parent):
            raise ValueError(
                f"{override!r}: '{prefix}' is the value {parent!r}, which has no keys below it"
            )


def _kind(value: Any) -> str:
    if OmegaConf.is_list(value):
        return "a list"
    return "a section" if OmegaConf.is_config(value) else f"{value!r}"
