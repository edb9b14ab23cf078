"""``ironloom eval``: how good a trained model is."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
from typing import Annotated, Any

import typer

from ironloom.cli.loading import Device, Loaded, load
from ironloom.errors import ConfigError


def evaluate(
    path: Annotated[str, typer.Argument(help="A run's output folder, a checkpoint, or any model folder.")],
    data: Annotated[list[pathlib.Path] | None, typer.Option(help="A prepared store: its perplexity; repeatable.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks of lm-evaluation-harness, with commas between them.")] = None,
    include_path: Annotated[list[pathlib.Path] | None, typer.Option(help="A folder with tasks of your own; repeatable.")] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="Examples before each question; default: as the task says.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts that are read at once.")] = 4,
    max_length: Annotated[int | None, typer.Option(help="Tokens that are read at once; default: as many as the model reads.")] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens between two windows of a long document; default: half a window.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many documents, or questions of each task.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: Device = "auto",
) -> None:
    """Evaluate a model: the perplexity of prepared data, tasks of lm-evaluation-harness.

    `ironloom data prepare` prints the folders of stores. Every token but the first of a document is scored once, within its
    document; where a store says which tokens the model has to produce, these alone.

    Example: ironloom eval output/tuned --data STORE
    """
    if not data and tasks is None:
        raise ConfigError("nothing to evaluate on: give --data STORE, a folder that `ironloom data prepare` names, or --tasks NAMES")
    if tasks is None and (include_path or num_fewshot is not None):
        raise ConfigError("--include-path and --num-fewshot have no effect without --tasks")
    if not data and stride is not None:
        raise ConfigError("--stride has no effect without --data")
    from ironloom.data.store import TokenStore
    from ironloom.evaluation.tasks import find_tasks, run_tasks

    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    if tasks is not None and not names:
        raise ConfigError("--tasks: expected names of tasks, with commas between them")
    manager = find_tasks(names, include_path or []) if names else None
    stores = [TokenStore(folder) for folder in data or []]
    loaded = load(path, device)
    for store in stores:
        store.check_tokenizer(loaded.tokenizer)
    results: dict[str, Any] = {}
    if stores:
        results["perplexity"] = {str(store.folder): _perplexity(loaded, store, batch_size, max_length, stride, limit) for store in stores}
    if names:
        with contextlib.redirect_stdout(sys.stderr):  # the harness's own messages
            results["tasks"] = run_tasks(
                loaded.model,
                loaded.tokenizer,
                loaded.end,
                names,
                manager,
                batch_size=batch_size,
                max_length=max_length,
                num_fewshot=num_fewshot,
                limit=limit,
            )
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        _show(results)


def _perplexity(
    loaded: Loaded, store: Any, batch_size: int, max_length: int | None, stride: int | None, limit: int | None
) -> dict[str, float]:
    from ironloom.cli.working import working
    from ironloom.evaluation.perplexity import perplexity

    with working(str(store.folder)) as progress:
        found = perplexity(
            loaded.model,
            store,
            batch_size=batch_size,
            max_length=max_length,
            stride=stride,
            max_documents=limit,
            progress=progress,
        )
    return {
        "loss": found.loss,
        "perplexity": found.perplexity,
        "tokens": found.tokens,
        "weight": found.weight,
        "documents": found.documents,
    }


def _show(results: dict[str, Any]) -> None:
    """A table of stores and one of tasks."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if "perplexity" in results:
        table = Table("data", "perplexity", "loss", "tokens", "documents")
        for name, found in results["perplexity"].items():
            table.add_row(name, f"{found['perplexity']:,.2f}", f"{found['loss']:.4f}", f"{found['tokens']:,}", f"{found['documents']:,}")
        console.print(table, highlight=False, markup=False)
    if "tasks" in results:
        table = Table("task", "filter", "metric", "value", "error")
        for name, found in results["tasks"]["results"].items():
            for key, value in found.items():
                metric, comma, kind = key.partition(",")
                if comma and not metric.endswith("_stderr"):
                    error = found.get(f"{metric}_stderr,{kind}")
                    table.add_row(name, kind, metric, _number(value), _number(error))
        console.print(table, highlight=False, markup=False)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value in (None, "N/A") else str(value)
