"""A model of ``transformers`` becomes a built-in decoder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ironloom.errors import CheckpointError, ConfigError
from ironloom.models.build import allocate
from ironloom.models.config import DecoderConfig
from ironloom.models.convert.families import Family
from ironloom.models.convert.places import staged
from ironloom.models.convert.rules import weights_to_ours
from ironloom.models.convert.source import copy_companions, family_of, fetch, read_hf_config, read_tensors
from ironloom.models.convert.verify import probe_decoder, verify
from ironloom.models.decoder import Decoder
from ironloom.models.files import load_decoder
from ironloom.settings.model import ModelConfig
from ironloom.weights import save_weights
from ironloom.weights.parts import MAX_SHARD_BYTES
from ironloom.weights.tensors import read_json

_PRECISIONS = ("bfloat16", "float16", "float32")
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def import_model(name_or_path: str, output: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> float:
    """Write the decoder that a model of ``transformers`` is, with its tokenizer.

    Weights keep the type they are stored in. The folder appears when ``transformers``, loading the original in a fresh process,
    gave the logits that the decoder in it gives.

    Args:
        name_or_path: A folder, or a name on the Hugging Face hub.
        output: The folder to make.
        max_shard_bytes: Begin another file of weights beyond this size.

    Returns:
        The largest difference of logits, as a share of the largest.

    Raises:
        ConfigError: If the decoder cannot be this model, or ``output`` exists.
        CheckpointError: If files are damaged, weights do not fit, or the logits differ.
        ResourceError: If the model is not here and cannot be fetched, or the disk does not take it.
    """
    source = fetch(name_or_path)
    config = read_hf_config(source)
    family = family_of(config)
    settings = settings_of(config, family)
    tensors = read_tensors(source, family)
    _check_tied(tensors, family, settings)
    rows = config.vocab_size
    target = DecoderConfig(settings, rows, rows, _end_token(config, source))
    shapes = {name: tensor.shape for name, tensor in allocate(target).state_dict().items()}
    weights = weights_to_ours(tensors, shapes, family.rules)
    with staged(output) as folder, tempfile.TemporaryDirectory() as work:
        target.save_pretrained(folder, str(weights[_EMBEDDING].dtype).removeprefix("torch."))
        save_weights(weights, folder, max_shard_bytes=max_shard_bytes)
        copy_companions(source, folder)
        del tensors, weights
        return verify(source, _probe(load_decoder(folder)), Path(work))


def _probe(model: Decoder) -> dict[str, Tensor]:
    return probe_decoder(model)


def settings_of(config: Any, family: Family) -> ModelConfig:
    """The settings of the decoder that computes what a configuration describes.

    Raises:
        ConfigError: Naming every key that it cannot follow.
    """
    dtype = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    tokenizer = {"tokenizer_type": "bbpe", "vocab_name_or_path": None}
    settings = ModelConfig.from_mapping({**family.read(config), **tokenizer, "precision": dtype if dtype in _PRECISIONS else "float32"})
    from transformers import AutoConfig

    there, here = config.to_dict(), AutoConfig.for_model(family.model_type, **family.write(settings)).to_dict()
    odd = [name for name in family.compared if not _alike(there.get(name), here.get(name))]
    if odd:
        shown = ", ".join(f"{name} {there.get(name)!r}" for name in odd)
        raise ConfigError(f"the built-in decoder cannot follow this model's {shown} (it can be trained as it is, by model.name_or_path)")
    return settings


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        plain = [{key: value for key, value in each.items() if key not in ("type", "partial_rotary_factor")} for each in (one, other)]
        return plain[0].keys() == plain[1].keys() and all(_alike(value, plain[1][key]) for key, value in plain[0].items())
    return bool(one == other) or (not one and not other)


def _check_tied(tensors: dict[str, Tensor], family: Family, settings: ModelConfig) -> None:
    """A head that is stored beside a tied embedding is the same, and left out."""
    embedding = next(rule.theirs for rule in family.rules if rule.ours == _EMBEDDING)
    if settings.untie_embed or _HEAD not in tensors or embedding not in tensors:
        return
    if not torch.equal(tensors[_HEAD], tensors[embedding]):
        raise CheckpointError(f"config.json says that {_HEAD} is the embedding (tie_word_embeddings), but the files hold another matrix")
    del tensors[_HEAD]


def _end_token(config: Any, source: Path) -> int | None:
    """The token that ends a text: what the tokenizer says where the configuration names several."""
    ends = config.eos_token_id
    if not isinstance(ends, list):
        return ends if isinstance(ends, int) else None
    path = source / "tokenizer_config.json"
    token = read_json(path).get("eos_token") if path.is_file() else None
    token = token.get("content") if isinstance(token, dict) else token
    if isinstance(token, str) and (source / "tokenizer.json").is_file():
        added = read_json(source / "tokenizer.json").get("added_tokens", [])
        named = next((entry["id"] for entry in added if entry.get("content") == token), None)
        if named is not None and named in ends:
            return int(named)
    return int(ends[0]) if ends else None
