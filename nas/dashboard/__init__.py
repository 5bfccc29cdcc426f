"""Serves optuna-dashboard with access control, layout patches and figures of the study."""
