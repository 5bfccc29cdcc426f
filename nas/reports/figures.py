"""Plotly figures of a study, for the dashboard and for reports.

The figures are pure functions of the trials; accuracies are in per cent. A figure without data shows a message instead.
"""

import html
from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle
from typing import TYPE_CHECKING, Any

from nas.architecture.architecture import Architecture
from nas.architecture.blocks import split_into_blocks
from nas.architecture.cost import METRIC_LABELS
from nas.architecture.diagram import layer_text
from nas.architecture.layers import Shape
from nas.pareto import pareto_front
from nas.study.trial import TrainedTrial, TrialRecord

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MAX_CURVES = 10  # learning curves in one figure

# The palette of Okabe and Ito ("Color Universal Design", 2008), which colour-blind readers can tell apart, without
# yellow, which is too light on white. Symbols and dashes distinguish the series, too.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73"),
    *("#0072B2", "#D55E00", "#CC79A7"),
)
LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, BLACK, SKY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star", "triangle-down")

PATTERN = {"fillmode": "overlay", "fgcolor": "white", "fgopacity": 0.6, "size": 10, "solidity": 0.15}

ACCURACY = "val accuracy, %"
MAX_TICKS = 12  # as many as fit on a phone


def accuracy_against_cost(
    trials: Sequence[TrialRecord],
    *,
    metric: str = "params",
    confirmed: Mapping[int, tuple[float, float]] | None = None,
) -> "Figure":
    """Plots the objective of the trained trials against a cost, with the Pareto front.

    Args:
        trials: Trials of the study.
        metric: Name of a metric of `Cost`. Default: "params".
        confirmed: Mean and standard deviation of the objective over further seeds, as fractions, by trial number; drawn
            with error bars of one standard deviation. Default: none.
    """
    trained = sorted((trial for trial in trials if trial.objective is not None), key=lambda trial: _cost(trial, metric))
    if not trained:
        return _message_figure("No network is trained yet.")
    best = pareto_front((trial, (trial.objective or 0.0, -_cost(trial, metric))) for trial in trained)
    again = [trial for trial in trained if trial.number in (confirmed or {})]
    traces = [
        _scatter("trained", trained, metric, mode="markers", marker={"color": SKY, "size": 7, "symbol": "circle"}),
        _scatter(
            "Pareto front",
            best,
            metric,
            mode="lines+markers",
            marker={"color": VERMILION, "size": 9, "symbol": "diamond"},
            line={"color": VERMILION, "width": 1.5, "shape": "hv"},
        ),
    ]
    if again and confirmed:
        means, deviations = zip(*(confirmed[trial.number] for trial in again), strict=True)
        trace = _scatter("mean of further seeds ± standard deviation", again, metric, mode="markers")
        trace["y"] = [100 * mean for mean in means]
        trace["hovertemplate"] = (
            "%{text}<br>with further seeds %{y:.2f} ± %{error_y.array:.2f} % (standard deviation)<extra></extra>"
        )
        trace["error_y"] = {"type": "data", "array": [100 * sd for sd in deviations], "color": BLACK, "thickness": 1.2}
        trace["marker"] = {"color": BLACK, "size": 8, "symbol": "square-open"}
        traces.append(trace)
    label = METRIC_LABELS[metric]
    return make_figure(f"Accuracy against {label.short}", traces, x=label.axis, y=ACCURACY)


def learning_curves(best: Sequence[TrainedTrial]) -> "Figure":
    """Plots the val accuracy by epoch of some trials, the best first."""
    if not best:
        return _message_figure("No network is trained yet.")
    traces = [
        {
            "type": "scatter",
            "name": f"trial {trial.number}",
            "mode": "lines+markers",
            "x": [metrics.epoch for metrics in trial.history],
            "y": [100 * metrics.val_accuracy for metrics in trial.history],
            "line": {"color": color, "dash": dash, "width": 1.5},
            "marker": {"color": color, "symbol": symbol, "size": 6},
            "hovertemplate": f"trial {trial.number}, epoch %{{x}}: %{{y:.2f}} %<extra></extra>",
        }
        for trial, color, dash, symbol in zip(best, cycle(LINES), cycle(DASHES), cycle(SYMBOLS), strict=False)
    ]
    title = "Learning curve of the best" if len(best) == 1 else f"Learning curves of the best {len(best)}"
    figure = make_figure(title, traces, x="epoch", y=ACCURACY)
    return figure.update_xaxes(_integer_ticks(max(len(trial.history) for trial in best)))


def discards_over_candidates(discards: Sequence[Mapping[str, int]]) -> "Figure":
    """Plots the cumulative number of discarded draws over the candidates, one line per reason.

    `discards` holds, for each candidate in order, the number of draws discarded before it, by reason.
    """
    reasons = sorted({reason for counts in discards for reason in counts})
    if not reasons:
        return _message_figure("No draw was discarded.")
    totals = {reason: list(accumulate(counts.get(reason, 0) for counts in discards)) for reason in reasons}
    traces = [
        {
            "type": "scatter",
            "name": _escape(reason.replace("_", " ")),
            "mode": "lines",
            "x": list(range(1, len(discards) + 1)),
            "y": totals[reason],
            "line": {"color": color, "dash": dash, "width": 2, "shape": "hv"},
            "hovertemplate": f"{_escape(reason.replace('_', ' '))}: %{{y:,}} up to candidate %{{x}}<extra></extra>",
        }
        for reason, color, dash in zip(
            sorted(reasons, key=lambda reason: -totals[reason][-1]), cycle(LINES), cycle(DASHES), strict=False
        )
    ]
    figure = make_figure("Discarded draws by reason", traces, x="candidates so far", y="discarded draws so far")
    return figure.update_xaxes(_integer_ticks(len(discards))).update_yaxes(
        _integer_ticks(max(map(max, totals.values())))
    )


def params_by_layer(architecture: Architecture, *, title: str = "Parameters by layer") -> "Figure":
    """Plots each layer's share of the parameters: one bar per block, first block on top, one segment per layer."""
    segments: dict[str, list[tuple[str, str, int]]] = {}
    parts = split_into_blocks(architecture)
    for part in parts:
        shape: Shape = part.input_shape
        for layer in part.layers:
            measure = layer.measure(shape)
            shape = measure.output_shape
            if measure.params:
                kind = layer.kind.replace("_", " ")
                segments.setdefault(kind, []).append((part.name, layer_text(layer), measure.params))
    total = sum(params for found in segments.values() for _, _, params in found)
    if not total:
        return _message_figure("The network has no parameters.")
    patterns = ("", "/", ".", "x", "-", "\\", "+")
    traces = [
        {
            "type": "bar",
            "name": kind,
            "orientation": "h",
            "y": [name for name, _, _ in found],
            "x": [100 * params / total for _, _, params in found],
            "text": [words for _, words, _ in found],
            "customdata": [params for _, _, params in found],
            "textposition": "inside",
            "insidetextanchor": "middle",
            "insidetextfont": {"color": BLACK},
            "marker": {
                "color": color,
                "line": {"color": "white", "width": 2},
                "pattern": {**PATTERN, "shape": pattern},
            },
            "hovertemplate": "%{y}, %{text}: %{customdata:,} parameters, %{x:.1f} %<extra></extra>",
        }
        for (kind, found), color, pattern in zip(
            segments.items(), cycle((SKY, ORANGE, GREEN, PURPLE, BLUE, VERMILION)), cycle(patterns), strict=False
        )
    ]
    figure = make_figure(title, traces, x=f"share of {total:,} parameters, %", y="")
    names = [part.name for part in parts]
    figure.update_layout(barmode="stack", hovermode="closest", uniformtext={"minsize": 9, "mode": "hide"})
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1])
    return figure


def _cost(trial: TrialRecord, metric: str) -> int:
    return int(getattr(trial, metric))


def _scatter(name: str, trials: Sequence[TrialRecord], metric: str, **how: Any) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": name,
        "x": [_cost(trial, metric) for trial in trials],
        "y": [100 * (trial.objective or 0.0) for trial in trials],
        "text": [
            f"trial {trial.number}: {trial.objective:.2%}<br>{trial.params:,} parameters, {trial.macs:,} MACs,"
            f" receptive field {trial.receptive_field}"
            for trial in trials
        ],
        "hovertemplate": "%{text}<extra></extra>",
        **how,
    }


def make_figure(title: str, traces: Sequence[Mapping[str, Any]], *, x: str, y: str) -> "Figure":
    """Returns a figure of the traces in the style of this module; `x` and `y` are axis labels with units."""
    from plotly.graph_objects import Figure

    # Automatic margins fit the labels and leave room on a phone. Without a template a figure is 6 kB smaller.
    axis = {"gridcolor": "#E5E5E5", "linecolor": "#8C8C8C", "ticks": "outside", "automargin": True, "zeroline": False}
    figure = Figure(list(traces))
    figure.update_layout(
        template="none",
        title={"text": _escape(title), "x": 0, "xref": "container", "pad": {"l": 10}, "font": {"size": 15}},
        font={"family": "sans-serif", "size": 12, "color": "#1A1A1A"},
        xaxis={**axis, "title": {"text": x}},
        yaxis={**axis, "title": {"text": y}},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
    )
    return figure


def _integer_ticks(most: int) -> dict[str, int]:
    """Returns ticks at whole numbers for an axis up to `most`; on a short axis Plotly would put ticks at halves."""
    return {"tick0": 0, "dtick": 1} if most <= MAX_TICKS else {}


def _message_figure(text: str) -> "Figure":
    from plotly.graph_objects import Figure

    figure = Figure()
    where = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}
    figure.add_annotation(text=text, showarrow=False, font={"size": 15}, **where)
    figure.update_layout(template="none", xaxis={"visible": False}, yaxis={"visible": False})
    return figure


def _escape(text: str) -> str:
    """Escapes HTML, which Plotly would interpret."""
    return html.escape(text, quote=False)
