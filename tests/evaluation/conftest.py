"""The command line, as in the tests of commands."""

from cli.conftest import alone, ironloom

__all__ = ["alone", "ironloom"]
