"""Samplers, which propose candidates, and pruners, which stop trainings early."""
