"""Figures, tables and pages made from a study."""
