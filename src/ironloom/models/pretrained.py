"""A model that exists already, as configurations name it: ours or one of ``transformers``, whole or with adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ironloom.errors import CheckpointError, ConfigError, DataError, Problem
from ironloom.models.config import MODEL_TYPE, read_config
from ironloom.models.decoder import Decoder
from ironloom.settings.lora import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_pretrained(
    name_or_path: str,
    *,
    from_scratch: bool = False,
    vocab_size: int | None = None,
    max_seq_len: int | None = None,
    lora: Lora | Mapping[str, Any] | None = None,
) -> Decoder | PreTrainedModel:
    """A model to train, in float32 on the CPU.

    Args:
        name_or_path: A folder with a model of ours or of ``transformers``, or a name on the Hugging Face hub.
        from_scratch: Take the architecture alone: ``transformers`` draws the weights, from the global random numbers.
        vocab_size: Of the tokenizer; the model must have a row for each of its ids.
        max_seq_len: Of the samples; a model with learned positions must have as many.
        lora: Adapters to train in the place of the weights.

    Raises:
        ConfigError: If the model is not of the tokenizer or too short, or has no layers for the adapters.
        CheckpointError: If its files are damaged.
        ResourceError: If it is not here and cannot be fetched.
    """
    from ironloom.models.convert.source import fetch

    folder = fetch(name_or_path)
    model = _from_scratch(folder) if from_scratch else _whole(folder)
    if isinstance(model, Decoder):
        rows, positions = model.vocab_size, model.model.embed_positions
        longest = None if positions is None else positions.max_seq_len
    else:
        rows, longest = model.get_input_embeddings().weight.shape[0], getattr(model.config, "n_positions", None)
    if vocab_size is not None and vocab_size > rows:
        raise DataError(f"the tokenizer has {vocab_size:,} ids, the model in {name_or_path} only {rows:,}: they do not belong together")
    if max_seq_len is not None and longest is not None and max_seq_len > longest:
        raise ConfigError(Problem(f"{max_seq_len} is more than the {longest} positions of {name_or_path}", path="max_seq_len"))
    settings = lora if isinstance(lora, Lora) else Lora.from_mapping(lora or {})
    if settings.r:
        from ironloom.models.adapters import add_adapters

        add_adapters(model, settings, name_or_path)
    return model.train()


def _whole(folder: Path) -> Any:
    from ironloom.models.files import load_model

    model: Any = load_model(folder).float()
    if not isinstance(model, Decoder):
        model.config.dtype = "float32"  # it is saved with the model, and whoever loads that would round the weights again
    return model


def _from_scratch(folder: Path) -> Any:
    if read_config(folder).get("model_type") == MODEL_TYPE:
        raise ConfigError(
            Problem("is for models of transformers", path="from_scratch", hint="give a decoder's shape in the place of its folder")
        )
    import torch
    from transformers import AutoModelForCausalLM

    from ironloom.models.convert.source import read_hf_config

    try:
        return AutoModelForCausalLM.from_config(read_hf_config(folder), dtype=torch.float32)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"transformers makes no causal language model of {folder / 'config.json'}: {error}") from error
