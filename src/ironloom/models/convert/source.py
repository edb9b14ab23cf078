"""A folder in the layout of ``transformers``: its configuration, its tensors, and the files that go along."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ironloom.errors import CheckpointError, ConfigError, ResourceError
from ironloom.models.convert.families import FAMILIES, Family
from ironloom.weights.layout import INDEX, SINGLE
from ironloom.weights.tensors import opened, read_index, read_json

GENERATION = "generation_config.json"
COMPANIONS = (
    GENERATION,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
_HUB = ("*.json", "*.safetensors", "*.txt", "*.jinja", "tokenizer.model")


def fetch(name_or_path: str) -> Path:
    """The folder of a model: itself, or what the Hugging Face hub or its cache on this machine has under the name.

    Raises:
        ConfigError: If there is no such folder and it cannot be a name of the hub.
        ResourceError: If the hub does not give it.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise ConfigError(f"there is no folder {path}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name_or_path, allow_patterns=list(_HUB)))
    except Exception as error:  # the hub and the network each have their own kinds
        raise ResourceError(
            f"no folder {name_or_path!r} is here, and from the Hugging Face hub it cannot be loaded: {type(error).__name__}: "
            f"{str(error).splitlines()[0]} (without a network: download the model elsewhere, with `hf download {name_or_path} "
            "--local-dir FOLDER`, and name the folder)"
        ) from error


def read_hf_config(folder: Path) -> Any:
    """The configuration of a model, completed by ``transformers``.

    Raises:
        CheckpointError: If ``config.json`` is missing, damaged, or of a model that ``transformers`` does not know.
    """
    content = read_json(folder / "config.json")
    if not isinstance(content, dict) or "model_type" not in content:
        raise CheckpointError(f"{folder / 'config.json'} names no model_type")
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a configuration may fail in any way: its values are checked by its own class
        raise CheckpointError(f"transformers cannot read {folder / 'config.json'}: {error}") from error


def family_of(config: Any) -> Family:
    """The family of a configuration.

    Raises:
        ConfigError: If the decoder cannot be one of it.
    """
    if config.model_type not in FAMILIES:
        raise ConfigError(
            f"a model of type {config.model_type!r} has no counterpart here; these have: {', '.join(sorted(FAMILIES))} "
            "(it can be trained as it is: set model.name_or_path to its folder or name)"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ConfigError("the model's weights are quantized: dequantize it with transformers first")
    return FAMILIES[config.model_type]


def read_tensors(folder: Path, family: Family) -> dict[str, Tensor]:
    """The weights of a folder under the names of the family's class with a head, without what is computed.

    Raises:
        CheckpointError: If a file is missing or damaged, or there are only pickled weights.
    """
    found: dict[str, Tensor] = {}
    for path, names in _files(folder):
        with opened(path) as file:
            for name in names if names is not None else file.keys():
                if not name.endswith(family.buffers):
                    with _readable(path, name):
                        found[_full_name(name, family)] = file.get_tensor(name)
    return found


@contextlib.contextmanager
def _readable(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the library has its own kind for a name that the index invented
        raise CheckpointError(f"{path} has no readable {name}: {error}") from error


def _full_name(name: str, family: Family) -> str:
    return name if name.startswith((family.prefix, "lm_head.")) else family.prefix + name


def _files(folder: Path) -> Iterator[tuple[Path, list[str] | None]]:
    """The files of the weights, each with the names that it is to give; None for all."""
    if (folder / SINGLE).exists():
        yield folder / SINGLE, None
        return
    if not (folder / INDEX).exists():
        raise CheckpointError(
            f"{folder} has no weights in safetensors: neither {SINGLE} nor {INDEX} (other files run code that they carry; convert them "
            "with transformers: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER))"
        )
    by_file: dict[str, list[str]] = {}
    for name, file in read_index(folder / INDEX).items():
        by_file.setdefault(file, []).append(name)
    for file, names in sorted(by_file.items()):
        yield folder / file, names


def copy_companions(source: Path, target: Path) -> None:
    """Copy tokenizer, chat template and generation settings."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
