"""Serves optuna-dashboard with access control, and keeps the figures of the study up to date."""
