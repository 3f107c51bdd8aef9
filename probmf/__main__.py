"""`python -m probmf` is `probmf`."""

from probmf.cli import app

if __name__ == "__main__":
    app()
