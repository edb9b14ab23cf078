"""``ironloom eval``: how good a trained model is."""

from __future__ import annotations

import json
import pathlib
from typing import Annotated, Any

import typer

from ironloom.cli.loading import Device, Loaded, load
from ironloom.errors import ConfigError


def evaluate(
    path: Annotated[str, typer.Argument(help="A run's output folder, a checkpoint, or any model folder.")],
    data: Annotated[list[pathlib.Path] | None, typer.Option(help="A prepared store: its perplexity; repeatable.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts that are read at once.")] = 4,
    max_length: Annotated[int | None, typer.Option(help="Tokens that are read at once; default: as many as the model reads.")] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens between two windows of a long document; default: half a window.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many documents.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: Device = "auto",
) -> None:
    """Evaluate a model: the perplexity of prepared data.

    `ironloom data prepare` prints the folders of stores. Every token but the first of a document is scored once, within its
    document; where a store says which tokens the model has to produce, these alone.

    Example: ironloom eval output/tuned --data STORE
    """
    if not data:
        raise ConfigError("nothing to evaluate on: give --data STORE, a folder that `ironloom data prepare` names")
    from ironloom.data.store import TokenStore

    stores = [TokenStore(folder) for folder in data]
    loaded = load(path, device)
    for store in stores:
        store.check_tokenizer(loaded.tokenizer)
    results = {str(store.folder): _perplexity(loaded, store, batch_size, max_length, stride, limit) for store in stores}
    if as_json:
        print(json.dumps({"perplexity": results}, indent=2))
    else:
        _table(results)


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


def _table(results: dict[str, dict[str, float]]) -> None:
    """One line for each store."""
    from rich.console import Console
    from rich.table import Table

    table = Table("data", "perplexity", "loss", "tokens", "documents")
    for name, found in results.items():
        table.add_row(name, f"{found['perplexity']:,.2f}", f"{found['loss']:.4f}", f"{found['tokens']:,}", f"{found['documents']:,}")
    Console().print(table, highlight=False, markup=False)
