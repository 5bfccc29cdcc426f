"""Neural architecture search under hard constraints: each command of `nas` has a function here.

    from nas import Architecture, cost_of, search

The public names are listed in `__init__.pyi`; the layers of an architecture are in `nas.layers`. Names are imported on
first access, so that light ones such as `cost_of` load neither torch nor Optuna.
"""

import warnings

import lazy_loader

# Optuna imports tqdm, which gives this warning in a notebook without ipywidgets. `nas` does not need them.
warnings.filterwarnings("ignore", "IProgress not found")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
