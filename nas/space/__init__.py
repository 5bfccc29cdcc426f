"""Search spaces: candidates, their limits and their feasibility. Importing it loads neither torch nor Optuna."""
