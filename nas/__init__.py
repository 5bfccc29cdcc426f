"""Neural architecture search under hard constraints: each command of `nas` has a function here.

    import nas

    result = nas.search(max_params=8000, epochs=15, trials=20, progress=True)
    result.best[0].architecture
    nas.trials_dataframe()

`search` finds networks, `trials` reads them, `confirm` measures the best on the test split, `export_trial` writes it as
files that run without `nas`, and `report` writes a page about the study. `train` and `train_seeds` train one network.
`cost_of`, `layer_table` and `survey` need no training. A network can be given by name, as in `nas.train("nas-3686")`,
by file or by folder. The layers of an `Architecture` are in `nas.layers`.

A user's mistake raises a `NasError`. Functions print nothing unless `progress` is set. Accuracies are fractions.
`print` shows results as text. In a notebook, architectures show themselves as diagrams, trials and results as tables.
"""

import warnings

import lazy_loader

# Optuna imports tqdm, which gives this warning in a notebook without ipywidgets. `nas` does not need them.
warnings.filterwarnings("ignore", "IProgress not found")

# Names are imported from the modules in `__init__.pyi` on first access: light ones load neither torch nor Optuna.
_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from nas.distribution import package_version

        return package_version()
    return _public_name(name)
