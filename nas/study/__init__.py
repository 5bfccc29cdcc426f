"""Studies: settings, trials and further runs, stored in an Optuna database and read as typed values."""
