"""Published networks as parameter values of the search spaces."""


def blocks(*tables, **network):
    """Returns parameter values by name. `tables`: one dictionary per block, with its widths under "widths"."""
    values = {"num_blocks": len(tables), **network}
    for number, table in enumerate(tables, start=1):
        widths = table.pop("widths")
        values[f"block{number}.num_convs"] = len(widths)
        values |= {f"block{number}.{key}": value for key, value in table.items()}
        values |= {f"block{number}.conv{conv}.channels": width for conv, width in enumerate(widths, start=1)}
    return values


PLAIN = {"kernel_size": 3, "convolution": "full", "shared_repeats": 0, "transition": "none"}


SAME = {**PLAIN, "padding": "same", "dropout": 0.05}


VALID = {**PLAIN, "padding": "valid", "dropout": 0.05}


BEFORE = {"transition": "before_pool", "transition_channels": 8}


COMMON = {"activation": "relu", "order": "norm_act", "pool": "max", "residual": False}


PUBLISHED = {
    "mnist-7825": blocks(
        {**SAME, "widths": [7, 11]},
        {**SAME, "widths": [11, 15]},
        {**SAME, "widths": [15, 16]},
        head="gap_conv",
        **COMMON,
    ),
    "mnist-18962": blocks(
        {**SAME, "widths": [10, 18]},
        {**SAME, "widths": [18, 28]},
        {**SAME, "widths": [28, 10]},
        head="gap",
        **COMMON,
    ),
    "mnist-6136": blocks(
        {**VALID, "widths": [8, 16], "transition": "after_pool", "transition_channels": 8},
        {**VALID, "widths": [8, 12, 12, 16]},
        head="gap_conv",
        **COMMON,
    ),
    "mnist-3928": blocks(
        {**VALID, **BEFORE, "widths": [8, 10]},
        {**VALID, **BEFORE, "widths": [10, 12], "transition_channels": 10},
        {**VALID, "widths": [10]},
        head="gap_conv",
        **{**COMMON, "order": "act_norm"},
    ),
}
