"""Files that the dashboard shows for a training run: a picture, the architecture and a table of epochs."""

import csv
import io
from collections.abc import Sequence

from nas.architecture.architecture import Architecture
from nas.architecture.diagram import architecture_svg
from nas.training.metrics import EpochMetrics


def files_of_training(architecture: Architecture, history: Sequence[EpochMetrics], *, title: str) -> dict[str, bytes]:
    """Returns the contents of the files by name: a picture of the network, its architecture and a table of epochs."""
    return {
        "architecture.svg": architecture_svg(architecture, title=title),
        "architecture.json": architecture.dumps().encode(),
        "epochs.csv": epochs_csv(history).encode(),
    }


def epochs_csv(history: Sequence[EpochMetrics]) -> str:
    """Returns the metrics as CSV: a header, then one line for each epoch. Accuracies are in 0..1."""
    text = io.StringIO()
    writer = csv.DictWriter(text, EpochMetrics.__dataclass_fields__, lineterminator="\n")
    writer.writeheader()
    writer.writerows(metrics.to_json() for metrics in history)
    return text.getvalue()
