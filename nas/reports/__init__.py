"""Figures, tables and pages about a study."""
