"""optuna-dashboard, served safely, with the study's own figures."""
