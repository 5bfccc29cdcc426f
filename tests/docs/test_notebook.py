"""The guides' notebook runs from top to bottom in a kernel, and is committed without outputs."""

import json
import os
import subprocess
import sys

import pytest
from support.paths import ROOT

from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

NOTEBOOK = ROOT / "docs" / "guides" / "python.ipynb"
KERNEL_SECONDS = 1800  # a cell may take long on a shared machine


def test_notebook_is_committed_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert sum(cell["cell_type"] == "code" for cell in cells) > 10


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Folder in which the notebook is executed, and its code cells with their outputs."""
    pytest.importorskip("ipykernel")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=KERNEL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    return folder, [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
def test_cells_run_without_errors_and_show_results_as_html(executed):
    _, cells = executed
    shown = {cell.source.splitlines()[-1]: output.data for cell in cells for output in cell.outputs if "data" in output}
    for source in ("result", "nas.trials()", "best", "fit", "exported", 'nas.Architecture.load("mnist-7825")'):
        assert shown[source]["text/html"].startswith("<"), source
    errors = [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    texts = [output.text for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    assert (errors, texts) == ([], [])


@pytest.mark.slow
def test_search_progress_is_one_output_with_one_line_per_trial(executed):
    _, cells = executed
    (cell,) = (cell for cell in cells if "nas.search(" in cell.source)
    (output,) = cell.outputs
    text = output.data["text/plain"]
    assert output.data["text/html"].startswith("<pre")
    assert text.splitlines()[1].startswith("space grey, limits params<=2000, ")
    assert text.count(" params, ") == 4  # a line for each trial
    assert "Interrupt the kernel" not in text


@pytest.mark.slow
def test_stored_command_is_python_call_that_resumes_study(executed):
    folder, _ = executed
    command = StudyRecords.open(StudyRef(folder / "results")).notes.command
    assert command == "nas.search(max_params=2000, epochs=2, trials=4, dataset='digits')"
    program = f"import nas; print({command}.lines()[0])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    again = [sys.executable, "-c", program]
    done = subprocess.run(again, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("4 of 4 trained, ")


@pytest.mark.slow
def test_report_and_model_card_show_python_calls(executed):
    folder, _ = executed
    search = "import nas\nnas.search(max_params=2000, epochs=2, trials=4, dataset='digits')\n"
    search += "nas.confirm(top=1, seeds=2, target=0.9)\n"
    report = (folder / "results" / "search-report.html").read_text(encoding="utf-8")
    assert f"<pre>{search}nas.export_trial(trial='confirmed')</pre>".replace("'", "&#39;") in report
    (card,) = folder.glob("results/export/*/README.md")
    assert f"The search that found this network:\n\n```python\n{search}```\n" in card.read_text(encoding="utf-8")
