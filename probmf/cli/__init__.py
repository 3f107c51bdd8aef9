"""The command line."""

from probmf.cli.app import app

__all__ = ["app"]
