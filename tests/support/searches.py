"""A small search on digits: its options, and what must not depend on how it went."""


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
    """What must not depend on interruptions: network, recipe and numbers of each trained candidate, in order."""
    return [
        (t.architecture.fingerprint(), t.recipe, t.objective, [m.val_loss for m in t.history])
        for t in records
        if t.outcome == "trained"
    ]
