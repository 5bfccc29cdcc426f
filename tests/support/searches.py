"""A small search on digits: its options, and the results that must be reproducible."""


def options(tmp_path, tiny_space, **others):
    return {
        "dataset": "digits",
        "space": tiny_space,
        "epochs": 2,
        "trials": 3,
        "max_params": 900,
        "min_receptive_field": 10,
        "results": tmp_path / "results",
        "device": "cpu",
        "workers": 1,
        **others,
    }


def outcome(records):
    """Returns what must not depend on interruptions: network, recipe and figures of each trained candidate."""
    return [
        (t.architecture.fingerprint(), t.recipe, t.objective, [m.val_loss for m in t.history])
        for t in records
        if t.outcome == "trained"
    ]
