"""The notebook among the examples: the README's script in cells, executed as Jupyter would."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: pip install '.[dev]'")
pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel: pip install '.[dev]'")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "search.ipynb"


def code_of(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_the_readmes_script():
    """But for what a cell shows without `print`."""
    snippet = next(found for found in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
                   if "class Digits" in found)
    script = [line for line in snippet.splitlines() if line]
    cells = [line for source in code_of(nbformat.read(NOTEBOOK, 4)) for line in source.splitlines() if line]
    assert [line for line in cells if line not in script] == ["result", 'result.to_frame()[["name", "accuracy", '
                                                              '"payload_bytes", "latency.p95_ms"]]']
    assert [line for line in script if line not in cells] == [
        'print(result.to_frame()[["name", "accuracy", "payload_bytes", "latency.p95_ms"]].to_string())']


def test_it_was_run_to_its_end():
    """What is committed shows the last run's outputs, in order, and none is an error."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


def test_it_runs(world, tmp_path, monkeypatch):
    scenario = world.scenario(backbone="resnet8", dataset="digits-m", image_size=None)
    (tmp_path / "tiny.yaml").write_text(scenario.to_yaml())
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    kernel = tmp_path / "share" / "jupyter" / "kernels" / "python3"  # of this interpreter, whatever is installed
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        f'{{"argv": ["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"], '
        '"display_name": "Python 3", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:
        for old, new in (('search("default"', 'search("tiny.yaml"'), ('_epochs": 30', '_epochs": 2'),
                         ("= load_digits(return_X_y=True)", "= (a[:400] for a in load_digits(return_X_y=True))")):
            cell.source = cell.source.replace(old, new)
    done = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3",
                                   resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = ["".join(str(output.get("data", {}).get("text/html", "")) for output in cell.outputs)
             for cell in done.cells if cell.cell_type == "code"]
    printed = ["".join(output.get("text", "") for output in cell.outputs)
               for cell in done.cells if cell.cell_type == "code"]
    progress = next(html for html in shown if "<progress" in html)
    assert progress.count('<progress value="1">') >= 5
    assert "train the backbone" in progress
    assert "so far" not in progress  # every phase ended
    assert "failed" not in progress
    assert sum("of the 100 ms allowed" in html for html in shown) == 1
    assert "latency.p95_ms" in shown[-2]
    assert re.match(r"\['\d', '\d', '\d', '\d', '\d'\] \[0 1 2 3 4\]", printed[-1])
