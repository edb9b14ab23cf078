"""The command line: one file per command, imported only when it runs.

Owns which commands there are and how errors become messages and exit codes. A user's mistake is
one message without a stack trace; ``--traceback`` shows the trace.
"""

from __future__ import annotations

import difflib
import os
import sys

from ironloom import __version__
from ironloom.errors import Interrupted, IronloomError

# Command: where its function or typer app is, and its line in the list of commands.
COMMANDS = {
    "train": ("ironloom.cli.train:train", "Train the run that a configuration describes."),
    "check": ("ironloom.cli.check:check", "Look for mistakes in a configuration, without running it."),
    "generate": ("ironloom.cli.generate:generate", "Write text with a trained model."),
    "ckpt": ("ironloom.cli.ckpt:app", "List and verify checkpoints."),
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; ends the process with its exit code.

    Args:
        arguments: The words after ``ironloom``; those of the process by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = words[: words.index("--")] if "--" in words else words
    with_trace = "--traceback" in own
    if with_trace:
        words.remove("--traceback")
    try:
        code = _run(words, with_trace)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has left. What is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _run(words: list[str], with_trace: bool) -> int:
    command = next((word for word in words if not word.startswith("-")), None)
    if command is None and "--version" in words:
        print(f"ironloom {__version__}")
        return 0
    if command is not None and command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "commands: " + ", ".join(COMMANDS)
        print(f"error: there is no command {command!r} ({hint})", file=sys.stderr)
        return 2
    try:
        from ironloom.cli.app import make_app

        make_app(command, with_trace)(args=words or ["--help"], prog_name="ironloom")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except IronloomError as error:
        if with_trace:
            raise
        return report(error)
    return 0


def report(error: IronloomError | Interrupted) -> int:
    """Print an error as messages on stderr.

    Returns:
        The exit code of its kind.
    """
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(f"  {note}", file=sys.stderr)
    return error.exit_code
