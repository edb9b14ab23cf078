"""The typer app of one call: every command's line of help, and the one command that runs."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ironloom.cli import COMMANDS, report
from ironloom.errors import Interrupted


def make_app(command: str | None, with_trace: bool) -> typer.Typer:
    """The typer app in which only ``command`` is more than its line of help."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.callback()
    def ironloom(
        version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
        traceback: Annotated[bool, typer.Option("--traceback", help="Show the stack trace of an error.")] = False,
        template: Annotated[
            str, typer.Option("--config-template", "-t", help="The configuration, in place of the command's first word.")
        ] = "",
        project: Annotated[str, typer.Option("--project-dir", "-p", help="The project in which the configuration is looked up.")] = ".",
    ) -> None:
        """Train language models. `ironloom COMMAND --help` explains a command."""

    for name, (place, line) in COMMANDS.items():
        if name != command:
            app.command(name, help=line)(lambda: None)
            continue
        module, _, attribute = place.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name, cls=_class_of(found))(_catching(found, with_trace))
    return app


def _class_of(function: Callable[..., None]) -> type[TyperCommand]:
    """What kind of command a function is: one that takes the words of a configuration takes its options too."""
    if "words" not in inspect.signature(function).parameters:
        return TyperCommand
    from ironloom.cli.configuration import ConfiguredCommand

    return ConfiguredCommand


def _catching(function: Callable[..., None], with_trace: bool) -> Callable[..., None]:
    """The command, its orderly interruption turned into an exit code before typer sees an interrupt."""

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except Interrupted as stop:
            if with_trace:
                raise
            sys.exit(report(stop))

    return command
