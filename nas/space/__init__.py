"""Search spaces: what candidates there are, and which of them keep the limits. No torch, no Optuna."""
