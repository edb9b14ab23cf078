"""A trained model becomes a folder that ``transformers``, and what builds on it, loads by itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ironloom.errors import CheckpointError, ConfigError
from ironloom.models.config import CONFIG_NAME, MODEL_TYPE, read_config
from ironloom.models.convert.families import FAMILIES, Family
from ironloom.models.convert.places import staged
from ironloom.models.convert.rules import weights_to_ours, weights_to_theirs
from ironloom.models.convert.shapes import essence
from ironloom.models.convert.source import GENERATION, copy_companions
from ironloom.models.convert.verify import probe, probe_decoder, verify
from ironloom.models.decoder import Decoder
from ironloom.models.files import ADAPTER, load_decoder, load_model
from ironloom.settings.model import ModelConfig
from ironloom.weights import save_weights
from ironloom.weights.parts import MAX_SHARD_BYTES
from ironloom.weights.tensors import read_json

Dtype = Literal["float32", "bfloat16", "float16"]
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
# What a configuration of transformers says of other tasks, or of how it was loaded.
_IDLE = (
    "id2label",
    "label2id",
    "problem_type",
    "chunk_size_feed_forward",
    "output_",
    "return_dict",
    "is_encoder_decoder",
    "_name",
    "summary_",
)


def export_model(folder: Path, output: Path, *, dtype: Dtype | None = None, max_shard_bytes: int = MAX_SHARD_BYTES) -> float:
    """Write a model in the layout of ``transformers``, with tokenizer, chat template and generation settings.

    The folder appears when a fresh process has loaded it with ``AutoModelForCausalLM`` and got the same logits.

    Args:
        folder: A built-in decoder, or a model of ``transformers``.
        output: The folder to make.
        dtype: Type of the stored weights; by default that in which they are stored in ``folder``.
        max_shard_bytes: Begin another file of weights beyond this size.

    Returns:
        The largest difference of logits, as a share of the largest.

    Raises:
        ConfigError: If no family computes what this decoder does, naming what keeps it from the nearest; or ``output`` exists.
        CheckpointError: If files are damaged, a weight has no place, or the logits differ.
        ResourceError: If the disk does not take it.
    """
    if (folder / ADAPTER).is_file():
        raise ConfigError(
            f"{folder} holds an adapter, not a model: `ironloom model merge {folder} --output FOLDER` makes one, to be exported"
        )
    content = read_config(folder)
    stored = content.get("torch_dtype") or content.get("dtype") or "float32"
    kind = getattr(torch, dtype or stored, torch.float32)
    with staged(output) as target, tempfile.TemporaryDirectory() as work:
        copy_companions(folder, target)
        if content.get("model_type") == MODEL_TYPE:
            expected = _write_decoder(load_decoder(folder), target, kind, max_shard_bytes)
        else:
            expected = _write_stock(folder, target, kind, max_shard_bytes)
        return verify(target, expected, Path(work))


def family_for(settings: ModelConfig) -> Family:
    """The family that computes what a decoder of these settings computes.

    Raises:
        ConfigError: If there is none, with what differs from the nearest.
    """
    from transformers import AutoConfig

    wanted, nearest = essence(settings), {}
    for family in FAMILIES.values():
        try:
            found = essence(ModelConfig.from_mapping(family.read(AutoConfig.for_model(family.model_type, **family.write(settings)))))
        except (ConfigError, ValueError, TypeError):  # a configuration that its own class refuses
            continue
        odd = [name for name, value in wanted.items() if found[name] != value]
        if not odd:
            return family
        nearest[family.model_type] = odd
    if not nearest:
        raise ConfigError("no family of transformers takes a model of this shape")
    name = min(nearest, key=lambda family: len(nearest[family]))
    raise ConfigError(
        f"no family of transformers computes what this decoder does: {name} is the nearest, but for {', '.join(nearest[name])}; "
        "such a model can be used here only"
    )


def _write_decoder(model: Decoder, target: Path, kind: torch.dtype, max_shard_bytes: int) -> dict[str, Tensor]:
    settings = model.config.settings
    family = family_for(settings)
    state = {name: value[: model.vocab_size] if name in _VOCABULARY else value for name, value in model.state_dict().items()}
    theirs = {name: value.to(kind) for name, value in weights_to_theirs(state, family.rules).items()}
    special = _special_tokens(target, model.eos_token_id, model.vocab_size)
    config = hf_config(family, settings, model.vocab_size, special, str(kind).removeprefix("torch."))
    (target / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _write_generation(target, special)
    save_weights(theirs, target, max_shard_bytes=max_shard_bytes)
    if kind is not torch.float32:
        _round(model, theirs, family)
    return probe_decoder(model)


def hf_config(family: Family, settings: ModelConfig, vocab_size: int, special: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The content of ``config.json``, as present and earlier versions of ``transformers`` and vLLM read it."""
    from transformers import AutoConfig

    values = family.write(settings)
    config = AutoConfig.for_model(family.model_type, **values, vocab_size=vocab_size, **special)
    content = {name: value for name, value in config.to_dict().items() if not name.startswith(_IDLE)}
    content |= {"architectures": [family.architecture], "dtype": dtype, "torch_dtype": dtype, "use_cache": True}
    turns = content.get("rope_parameters")
    if turns is not None:  # before version 5 it was said in two keys
        content["rope_theta"] = turns["rope_theta"]
        rest = {name: value for name, value in turns.items() if name != "rope_theta"}
        content["rope_scaling"] = None if rest["rope_type"] == "default" else rest
    return content


def _round(model: Decoder, theirs: Mapping[str, Tensor], family: Family) -> None:
    """Give the decoder the weights as they were rounded."""
    state = model.state_dict()
    shapes = {name: value[: model.vocab_size].shape if name in _VOCABULARY else value.shape for name, value in state.items()}
    with torch.no_grad():
        for name, value in weights_to_ours(theirs, shapes, family.rules).items():
            state[name][: value.shape[0]].copy_(value)


def _write_stock(folder: Path, target: Path, kind: torch.dtype, max_shard_bytes: int) -> dict[str, Tensor]:
    model: Any = load_model(folder).to(kind)
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(target, max_shard_size=max_shard_bytes)
    model.float()
    text = model.config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or 2**31
    return probe(model, text.vocab_size, longest, getattr(text, "sliding_window", None))


def _special_tokens(folder: Path, eos_token_id: int | None, vocab_size: int) -> dict[str, Any]:
    """Ids of the special tokens: from the generation settings, the tokenizer, and the model, in this order."""
    said = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    named = _named_tokens(folder)
    found = {f"{kind}_token_id": said.get(f"{kind}_token_id", named.get(kind)) for kind in ("bos", "eos", "pad")}
    if found["eos_token_id"] is None:
        found["eos_token_id"] = eos_token_id
    for name, value in found.items():
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(not isinstance(each, int) or not 0 <= each < vocab_size for each in ids):
            raise CheckpointError(f"{name} {value} is no token of the model's vocabulary of {vocab_size}")
    return found


def _named_tokens(folder: Path) -> dict[str, int]:
    if not all((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return {}
    config, added = read_json(folder / "tokenizer_config.json"), read_json(folder / "tokenizer.json").get("added_tokens", [])
    ids = {entry["content"]: entry["id"] for entry in added}
    names = {kind: config.get(f"{kind}_token") for kind in ("bos", "eos", "pad")}
    texts = {kind: name.get("content") if isinstance(name, dict) else name for kind, name in names.items()}
    return {kind: ids[text] for kind, text in texts.items() if text in ids}


def _write_generation(folder: Path, special: Mapping[str, Any]) -> None:
    """Generation settings that name the special tokens; what others say there stays."""
    path = folder / GENERATION
    said = read_json(path) if path.is_file() else {}
    content = {name: value for name, value in special.items() if value is not None} | said
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
