"""The commands, thin: one module a group. ``app`` registers them, ``console`` is how they speak."""

from meshctl.cli.app import main

__all__ = ["main"]
