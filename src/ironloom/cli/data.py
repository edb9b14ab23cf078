"""``ironloom data``: prepare what a run reads, before it runs."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ironloom.cli.configuration import ConfigurationWords, ConfiguredCommand, load_checked, split
from ironloom.cli.messages import show_messages
from ironloom.config.graph import Graph
from ironloom.config.prepared import asked_of, is_data
from ironloom.errors import ConfigError

if TYPE_CHECKING:
    from ironloom.data import PretrainData, SFTData

app = typer.Typer(help="Prepare data, and look at them.", no_args_is_help=True)

_OPTIONS = ["--format", "--output", "--num-workers"]
_INSPECT_OPTIONS = ["--json", "--html", "--samples"]

EXIT_WRONG = 3


@app.callback()
def data() -> None:
    """Prepare the data of a configuration, and look at them."""


@app.command("prepare", cls=ConfiguredCommand)
def prepare(
    words: ConfigurationWords,
    format_: Annotated[
        Literal["ironloom", "ironcore"], typer.Option("--format", help="ironcore: write data.bin and data.idx.npy, too.")
    ] = "ironloom",
    output: Annotated[pathlib.Path | None, typer.Option("--output", help="Folder for --format ironcore.")] = None,
    num_workers: Annotated[int | None, typer.Option("--num-workers", min=1, help="Processes; else as configured.")] = None,
) -> None:
    """Turn the texts of a configuration into token stores, as `train` would do it first.

    What is prepared already is not prepared again. If it is interrupted, even killed, the same command goes on where
    it was. The result does not depend on interruptions or on the number of processes.

    Example: ironloom data prepare examples/quickstart.yaml
    """
    from ironloom.cli.working import working

    if (format_ == "ironcore") != (output is not None):
        raise ConfigError("--format ironcore and --output FOLDER belong together")
    path, overrides, arguments, _ = split(words, own=_OPTIONS)
    graph = load_checked(path, overrides, arguments)
    show_messages(graph)
    found = data_of(graph, num_workers)
    with working("preparing the data") as progress:
        found.prepare(progress)
    for name, store in found.stores.items():
        counts = "".join(f", {number:,} {reason}" for reason, number in store.counts.items())
        print(f"{name}: {store.num_documents:,} documents, {store.num_tokens:,} tokens{counts}")
        print(f"  fingerprint {store.fingerprint}\n  {store.folder}")
        if output is not None:
            from ironloom.data import ironcore

            target = output / name / found.task
            ironcore.write(store, target, found.types)
            print(f"  written to {target}")
    for name, plan in found.plans.items():
        print(f"{name}: {plan}")


@app.command("inspect", cls=ConfiguredCommand)
def inspect(
    words: ConfigurationWords,
    as_json: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write JSON; - prints it in place of the report.")] = None,
    as_html: Annotated[str | None, typer.Option("--html", metavar="FILE", help="Write a page; - prints it in place of the report.")] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Samples of each store that are shown.")] = 3,
) -> None:
    """Prepare the data of a configuration, and look at them: lengths, what is trained, duplicates, broken records.

    Exit code 0: nothing is wrong, though there may be warnings; 3: records are broken, tokens are outside the vocabulary,
    documents have nothing to train on, or evaluation or test data are in the training data.

    Example: ironloom data inspect examples/sft.yaml --html report.html
    """
    from ironloom.cli.working import working

    if as_json == as_html == "-":
        raise ConfigError("--json - and --html - would both be printed: give one of them a file")
    path, overrides, arguments, _ = split(words, own=_INSPECT_OPTIONS)
    graph = load_checked(path, overrides, arguments)
    show_messages(graph)
    found = data_of(graph)
    from ironloom.cli import inspecting
    from ironloom.data.inspect import inspect_data

    with working("inspecting the data") as progress:
        report = inspect_data(found, path, asked_of(graph), samples, progress)
    inspecting.write(report, as_json, as_html)
    if not report.is_good:
        raise typer.Exit(EXIT_WRONG)


def data_of(graph: Graph, num_workers: int | None = None) -> PretrainData | SFTData:
    """The data of a configuration, not prepared yet.

    Raises:
        ConfigError: If they are none that can be prepared.
    """
    from ironloom import config

    node: Any = graph.root.get("data")
    if not is_data(node):
        raise ConfigError("this configuration names no data that can be prepared: its datasets are objects of its own")
    if num_workers is not None:
        node.kwargs["num_workers"] = num_workers
    return config.build(graph, "data")  # type: ignore[no-any-return]
