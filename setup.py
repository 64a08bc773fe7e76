"""Packages `co_detr` together with the configs; everything else is declared in pyproject.toml.

The configs live in `configs/` of the repository, where one looks for them, and are installed as
`co_detr/configs`, so that `co_detr.model_zoo` finds them in an installed copy too.
"""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    """The version as `co_detr/__init__.py` states it, read without importing torch."""
    text = (ROOT / "co_detr" / "__init__.py").read_text()
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


def config_packages() -> list[str]:
    """`co_detr.configs` and its subfolders: folders of config files, without `__init__.py`."""
    return ["co_detr.configs"] + [
        f"co_detr.configs.{name}" for name in find_namespace_packages("configs")
    ]


setup(
    version=version(),
    packages=find_namespace_packages(include=["co_detr", "co_detr.*"]) + config_packages(),
    package_dir={"co_detr.configs": "configs"},
)
