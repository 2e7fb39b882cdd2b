"""The command line: the only room that prints, exits, or knows a flag."""

from glmquant.cli.app import main

__all__ = ["main"]
