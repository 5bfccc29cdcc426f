"""A study: its trials as typed values, in memory and in Optuna's database."""
