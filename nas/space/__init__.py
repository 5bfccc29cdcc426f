"""Search spaces: which candidates there are, and which are feasible. Importing it loads neither torch nor Optuna."""
