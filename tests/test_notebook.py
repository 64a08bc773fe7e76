"""The notebook runs from its first to its last cell, and is kept without what it printed."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after it ran, with fewer pictures and iterations than readers see."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert parameters.source.startswith("PICTURES, ITERATIONS = 400, 600\nFOLDER = ")
    work = f"Path({str(folder / 'work')!r})"
    parameters.source = f"PICTURES, ITERATIONS = 64, 12\nFOLDER = {work}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        NotebookClient(notebook, timeout=240, resources={"metadata": {"path": folder}}).execute()
    return notebook


def _printed(notebook, start):
    """What the cell printed whose source begins with `start`."""
    (cell,) = [c for c in notebook.cells if c.source.startswith(start)]
    return "".join(out.text for out in cell.outputs if out.output_type == "stream")


def test_the_data_are_described_and_the_model_is_trained_and_evaluated(executed):
    assert "Wrote chalk.py" in _printed(executed, "!{sys.executable} -m co_detr new")
    for command in ("train", "evaluate"):
        printed = _printed(executed, "!{sys.executable} -m co_detr " + command)
        assert "Traceback" not in printed and "error:" not in printed, printed
        assert "AP50" in printed, printed


def test_the_model_is_loaded_and_pictures_are_shown(executed):
    assert "classes: 0 1 2 3 4 5 6 7 8 9\n" in _printed(executed, "detector = ")
    (cell,) = [c for c in executed.cells if "display(" in c.source]
    shown = [out for out in cell.outputs if out.output_type == "display_data"]
    assert len(shown) == 3 and all("image/png" in out.data for out in shown)


def test_notebook_is_kept_without_outputs():
    code = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None for c in code)
