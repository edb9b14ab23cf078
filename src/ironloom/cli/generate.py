"""``ironloom generate``: text from a trained model."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Annotated

import typer

from ironloom.cli.loading import Device, load, sampling_of, shown
from ironloom.errors import ConfigError, DataError


def generate(
    path: Annotated[str, typer.Argument(help="A run's output folder, a checkpoint, or any model folder.")],
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="Text to continue; repeatable. Default: stdin.")] = None,
    file: Annotated[pathlib.Path | None, typer.Option(help="Texts to continue, one on each line.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to add at most.")] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw among this many likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Draw among the likeliest of this probability.")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: what was written already is less likely.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="A string that ends a text and is left out; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same text.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts that are continued at once; it changes no text.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="For each prompt a line with prompt, text, tokens, and what ended it.")] = False,
    device: Device = "auto",
) -> None:
    """Continue one or more prompts with a trained model.

    Each prompt's text depends on the prompt, the options and the seed, not on the other prompts.

    Example: ironloom generate output/quickstart --prompt "The import statement"
    """
    prompts = _prompts(prompt, file)
    if stop and not all(stop):
        raise ConfigError("--stop needs a string of at least one character")
    sampling = sampling_of(temperature, top_k, top_p, repetition_penalty)
    loaded = load(path, device)
    from ironloom.models.generate_text import continue_texts

    for begin in range(0, len(prompts), batch_size):
        batch = prompts[begin : begin + batch_size]
        written = continue_texts(
            loaded.model,
            loaded.tokenizer,
            [loaded.tokenizer.encode(text) for text in batch],
            sampling,
            max_new_tokens=max_new_tokens,
            seeds=[seed] * len(batch),
            end=loaded.end,
            stop=stop or (),
        )
        for text, new in zip(batch, written, strict=True):
            if as_json:
                record = {"prompt": text, "text": new.text, "tokens": len(new.tokens), "ended": new.ended}
                print(json.dumps(record, ensure_ascii=False), flush=True)
            else:
                print(shown(text + new.text), flush=True)


def _prompts(prompt: list[str] | None, file: pathlib.Path | None) -> list[str]:
    """The texts to continue.

    Raises:
        ConfigError: If there are none, or one is empty.
        DataError: If the file cannot be read.
    """
    if prompt and file is not None:
        raise ConfigError("--prompt and --file: give one of them")
    if file is not None:
        try:
            found = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: cannot be read: {error}") from error
        empty = [number for number, line in enumerate(found, 1) if not line]
        if empty or not found:
            raise ConfigError(f"{file}: line {empty[0] if empty else 1} is empty: expected a prompt on each line")
        return found
    found = prompt or [sys.stdin.read().rstrip("\n")]
    if not all(found):
        raise ConfigError("an empty prompt: give --prompt TEXT, or text on standard input")
    return found
