"""Writes projects that compile an exported int8 network: an Arduino library, and a folder with a Makefile."""
