"""What commands share that use a trained model: finding it, loading it, and showing its text."""

from __future__ import annotations

import pathlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ironloom.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ironloom.data.tokenizer import Tokenizer
    from ironloom.models.decoder import Decoder
    from ironloom.models.sampling import Sampling

Device = Annotated[Literal["auto", "cpu"], typer.Option(help="auto: the accelerator, if there is one.")]


@dataclass(frozen=True)
class Loaded:
    """A model with what belongs to it.

    Attributes:
        folder: Where it was found.
        model: In evaluation mode.
        tokenizer: Its own.
        end: The tokens that end a text.
    """

    folder: pathlib.Path
    model: Decoder | PreTrainedModel
    tokenizer: Tokenizer
    end: set[int]


def load(path: str, device: str) -> Loaded:
    """The model in a run's output folder, a checkpoint, or any model folder.

    Raises:
        ConfigError: If there is none.
        CheckpointError: If its files are damaged.
        DataError: If it has no tokenizer.
    """
    folder = model_folder(pathlib.Path(path))
    from ironloom.data.tokenizer import Tokenizer
    from ironloom.device import choose_device
    from ironloom.models.files import load_model
    from ironloom.models.generate_text import end_tokens

    tokenizer = Tokenizer.load(folder)
    end = end_tokens(folder, tokenizer.eos_token_id)
    model = load_model(folder)
    model.to(choose_device(device == "cpu"))
    return Loaded(folder, model, tokenizer, end)


def sampling_of(temperature: float, top_k: int | None, top_p: float | None, repetition_penalty: float) -> Sampling:
    """How tokens are drawn.

    Raises:
        ConfigError: For what cannot be.
    """
    from ironloom.models.sampling import Sampling

    try:
        return Sampling(temperature, top_k, top_p, repetition_penalty)
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        raise ConfigError(f"--{name.replace('_', '-')} {rest}") from error


def shown(text: str) -> str:
    """The text for a terminal, without characters that would steer it; as it is for files and other programs."""
    if not sys.stdout.isatty():
        return text
    return "".join(character if character.isprintable() or character in "\n\t" else "\N{REPLACEMENT CHARACTER}" for character in text)


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
