"""``ironloom model``: models of ``transformers`` in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ironloom.errors import ConfigError

app = typer.Typer(help="Import and export models, merge adapters.", no_args_is_help=True)

_UNITS = {"MB": 10**6, "GB": 10**9}

Output = Annotated[Path | None, typer.Option("--output", "-o", help="The folder to make.")]
ShardSize = Annotated[str, typer.Option("--shard-size", help="Begin another file of weights beyond this size, such as 500MB or 5GB.")]


@app.command("import")
def import_(
    hf_path: Annotated[str, typer.Argument(help="A folder in the layout of transformers, or a name on the Hugging Face hub.")],
    output: Output = None,
    shard_size: ShardSize = "5GB",
) -> None:
    """Make a built-in decoder of a model of transformers: GPT-2, Llama, Mistral, Qwen2, Qwen3, Gemma.

    It is compared with the original, which transformers loads in a process of its own, before it is announced.

    Example: ironloom model import Qwen/Qwen3-0.6B --output models/qwen3
    """
    size, target = _bytes(shard_size), output or Path("output", Path(hf_path).name)
    from ironloom.models.convert import import_model

    difference = import_model(hf_path, target, max_shard_bytes=size)
    typer.echo(f"{target}: logits equal those of {hf_path} (largest difference {difference:.1e} of the largest logit)")


@app.command("export")
def export(
    path: Annotated[str, typer.Argument(help="A run's output folder, a checkpoint, or a model folder.")],
    to: Annotated[str, typer.Option("--to", help="The layout: hf, that of transformers.")] = "hf",
    output: Output = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: as the weights are stored.")] = None,
    shard_size: ShardSize = "5GB",
) -> None:
    """Write a model so that transformers, vLLM and others load it.

    A fresh process loads the result with AutoModelForCausalLM and compares logits before it is announced.

    Example: ironloom model export output/quickstart --to hf --output output/quickstart-hf
    """
    if to != "hf":
        raise ConfigError(f"--to: there is no layout {to!r} (hf is the one there is)")
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise ConfigError(f"--dtype: expected float32, bfloat16 or float16, found {dtype!r}")
    size = _bytes(shard_size)
    from ironloom.cli.loading import model_folder

    folder = model_folder(Path(path))
    target = output or folder.with_name(f"{folder.name}-hf")
    from ironloom.models.convert import export_model

    difference = export_model(folder, target, dtype=dtype, max_shard_bytes=size)  # type: ignore[arg-type]
    typer.echo(f"{target}: transformers loads it, logits equal (largest difference {difference:.1e} of the largest logit)")


@app.command("merge")
def merge(
    path: Annotated[str, typer.Argument(help="A run's output folder, a checkpoint, or a folder with an adapter.")],
    output: Output = None,
    base: Annotated[str | None, typer.Option(help="The adapter's model, if it is no longer where the adapter says.")] = None,
) -> None:
    """Add an adapter to the weights of its model, and write the whole model.

    Example: ironloom model merge output/tuned --output output/tuned-merged
    """
    from ironloom.cli.loading import model_folder

    folder = model_folder(Path(path))
    if not (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{folder} holds a whole model, no adapter: there is nothing to merge")
    target = output or folder.with_name(f"{folder.name}-merged")
    from ironloom.models.convert import merge_adapter

    difference = merge_adapter(folder, target, base)
    typer.echo(f"{target}: the whole model, logits equal (largest difference {difference:.1e} of the largest logit)")


def _bytes(text: str) -> int:
    """A size such as 5GB as a number of bytes."""
    number, unit = text[:-2], text[-2:].upper()
    if unit not in _UNITS or not number.replace(".", "", 1).isdigit() or float(number) <= 0:
        raise ConfigError(f"--shard-size: expected a size such as 500MB or 5GB, found {text!r}")
    return max(1, int(float(number) * _UNITS[unit]))
