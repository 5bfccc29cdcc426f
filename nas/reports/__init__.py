"""Figures, tables and pages made from the trials of a study."""
