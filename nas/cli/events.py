"""Prints the events of a search as JSON, for scripts."""

import dataclasses
import json
from typing import Any

from nas.commands.events import (
    EpochFinished,
    Event,
    FinalRunFinished,
    FinalsStarted,
    OthersAwaited,
    TrialFinished,
    TrialStarted,
)


def print_json(event: Event) -> None:
    """Prints the event as one line of JSON."""
    data: dict[str, Any] = {"event": type(event).__name__}
    if isinstance(event, TrialStarted):
        data |= {
            "number": event.number,
            **dataclasses.asdict(event.cost),
            "discards": dict(event.discards),
            "recipe": event.candidate.recipe.to_json(),
            "architecture": event.candidate.architecture.to_json(),
        }
    elif isinstance(event, EpochFinished):
        data |= {"number": event.number, **event.metrics.to_json()}
    elif isinstance(event, OthersAwaited | FinalsStarted):
        data |= dataclasses.asdict(event)
    elif isinstance(event, FinalRunFinished):
        data |= {
            "trial": event.run.trial,
            "seed": event.run.seed,
            "num_runs": event.num_runs,
            "num_done": event.num_done,
            "reason": event.reason,
        }
        data |= {"history": [metrics.to_json() for metrics in event.history]}
    elif isinstance(event, TrialFinished):
        best = event.best
        data |= event.trial.to_json() | dataclasses.asdict(event.tally) | {"best": best.number if best else None}
    else:
        best = event.best
        data |= {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        budget = data.pop("budget")
        data |= dataclasses.asdict(data.pop("tally")) | {"budget": budget.trials, "minutes": budget.minutes}
        data |= {"discards": dict(event.discards), "best": best.number if best else None}
    print(json.dumps(data), flush=True)
