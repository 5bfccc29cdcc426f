"""Samplers, which propose candidates, and pruners, which stop training runs early."""
