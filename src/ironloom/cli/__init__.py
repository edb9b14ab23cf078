"""The command line: one file per command, imported only when it runs.

Owns which commands there are and how errors become messages and exit codes. A user's mistake is
one message without a stack trace; ``--traceback`` shows the trace.
"""

from __future__ import annotations

import difflib
import os
import sys

from ironloom import __version__
from ironloom.errors import ConfigError, Interrupted, IronloomError

# Command: where its function or typer app is, and its line in the list of commands.
COMMANDS = {
    "train": ("ironloom.cli.train:train", "Train the run that a configuration describes."),
    "launch": ("ironloom.cli.launch:launch", "Write what starts a run on a cluster: SLURM, torchrun, Kubernetes."),
    "check": ("ironloom.cli.check:check", "Look for mistakes in a configuration, without running it."),
    "ls": ("ironloom.cli.ls:ls", "List the configurations of a project or folder."),
    "explain": ("ironloom.cli.explain:explain", "Tell where a value came from."),
    "diff": ("ironloom.cli.diff:diff", "Compare two configurations by what they mean."),
    "show": ("ironloom.cli.show:show", "Show the resolved configuration."),
    "pp": ("ironloom.cli.pp:pp", "Show the preprocessed text of a configuration."),
    "graph": ("ironloom.cli.graph:graph", "Show the object graph: a tree, Graphviz, YAML or Python."),
    "code": ("ironloom.cli.code:code", "Show a configuration as a Python program."),
    "targets": ("ironloom.cli.targets:targets", "List the targets of a configuration."),
    "templates": ("ironloom.cli.templates:templates", "List the files that a configuration is made from."),
    "construct": ("ironloom.cli.construct:construct", "Build a part of a configuration and show the object."),
    "schema": ("ironloom.cli.schema:schema", "Write a JSON Schema for editors."),
    "migrate": ("ironloom.cli.migrate:migrate", "Turn another tool's configuration into one of ours."),
    "generate": ("ironloom.cli.generate:generate", "Write text with a trained model."),
    "chat": ("ironloom.cli.chat:chat", "Talk with a trained model."),
    "eval": ("ironloom.cli.eval:evaluate", "Evaluate a trained model."),
    "model": ("ironloom.cli.model:app", "Import and export models of transformers."),
    "data": ("ironloom.cli.data:app", "Prepare the data of a configuration, look at them."),
    "ckpt": ("ironloom.cli.ckpt:app", "List and verify checkpoints."),
}
# Commands that take no configuration, so that none can be chosen for them.
_WITHOUT_CONFIGURATION = ("schema", "migrate", "generate", "chat", "eval", "model", "ckpt", "data")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; ends the process with its exit code.

    Args:
        arguments: The words after ``ironloom``; those of the process by default.
    """
    # Looking for plug-ins of pydantic among all installed packages would be a tenth of what `check` may take.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
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
    try:
        words = _chosen(words)
    except IronloomError as error:
        if with_trace:
            raise
        return report(error)
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


def _chosen(words: list[str]) -> list[str]:
    """The words with what the options before the command choose as the command's first word.

    ``-t CONFIG`` (``--config-template``) chooses a configuration, ``-p FOLDER`` (``--project-dir``) the project that it is looked up
    in, whose default it is without ``-t``. A configuration in the command's place is trained.
    """
    rest, chosen = list(words), {"-t": "", "-p": ""}
    while rest and rest[0].startswith("-"):
        name, equals, value = rest[0].partition("=")
        short = {"--config-template": "-t", "--project-dir": "-p"}.get(name, name)
        if short not in chosen:
            break
        if not equals and len(rest) < 2:
            raise ConfigError(f"the option {name} needs a value")
        chosen[short] = value if equals else rest[1]
        rest = rest[1 if equals else 2 :]
    if rest and rest[0] not in COMMANDS and rest[0].endswith((".yaml", ".yml", ".py")):
        rest.insert(0, "train")
    if not any(chosen.values()) or not rest:
        return rest if rest or not any(chosen.values()) else ["--help"]
    command = rest[0]
    if command in _WITHOUT_CONFIGURATION:
        raise ConfigError(f"{command} takes no configuration; leave -t and -p out")
    if command not in COMMANDS:
        return rest
    if command == "ls":
        return [command, chosen["-p"] or ".", *rest[1:]]
    from ironloom.config import projects

    return [command, projects.choose(chosen["-t"] or None, chosen["-p"] or "."), *rest[1:]]


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
