"""``progress=True`` in a real notebook; needs nbclient and ipykernel."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

SOURCE = """
import glmquant as gq
from glmquant import assets
bundle = gq.export(assets.DEMO_MODEL, out="onnx", progress=True)
"""


def test_progress_is_one_output_of_the_cell(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SOURCE)])
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output["output_type"] == "display_data"
    assert output["data"]["text/plain"].splitlines()[-1] == "exporting: 6 of 6"
