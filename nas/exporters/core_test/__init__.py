"""Runs an exported int8 network on an emulated processor core and compares its logits with the reference."""
