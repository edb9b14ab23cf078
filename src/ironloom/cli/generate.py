"""``ironloom generate``: text from a trained model."""

from __future__ import annotations

import pathlib
import sys
from typing import Annotated

import typer

from ironloom.errors import ConfigError


def generate(
    path: Annotated[str, typer.Argument(help="A run's output folder, a checkpoint, or any model folder.")],
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="Text to continue; repeatable. Default: stdin.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to add at most.")] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw among this many likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Draw among the likeliest of this probability.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same text.")] = 0,
) -> None:
    """Continue one or more prompts with a trained model.

    Example: ironloom generate output/quickstart --prompt "The import statement"
    """
    folder = model_folder(pathlib.Path(path))
    texts = prompt if prompt else [sys.stdin.read().rstrip("\n")]
    if not all(texts):
        raise ConfigError("an empty prompt: give --prompt TEXT, or text on standard input")
    import torch

    from ironloom.data.tokenizer import Tokenizer
    from ironloom.models.files import load_model
    from ironloom.models.generate import generate as continue_tokens

    model, tokenizer = load_model(folder), Tokenizer.load(folder)
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text)])
        written = continue_tokens(
            model,
            ids,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            eos_token_id=tokenizer.eos_token_id,
        )
        print(tokenizer.decode(written[0].tolist(), skip_special_tokens=True), flush=True)


def model_folder(path: pathlib.Path) -> pathlib.Path:
    """The folder with a model: ``path`` itself, or its newest good checkpoint.

    Raises:
        ConfigError: If there is none.
    """
    if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"there is no folder {path}: give a run's output folder, a checkpoint or a model")
    from ironloom.checkpoint.folder import CheckpointFolder

    nested = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    latest = CheckpointFolder(nested).latest(lambda message: print(message, file=sys.stderr))
    if latest is None:
        raise ConfigError(f"there is no model in {path}: no config.json, and no complete checkpoint")
    return latest.path
