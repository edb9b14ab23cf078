"""What ``config.json`` of a built-in decoder says: its settings, and the vocabulary they met."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironloom.errors import CheckpointError, ConfigError
from ironloom.settings.model import ModelConfig, shape_names

CONFIG_NAME = "config.json"
MODEL_TYPE = "ironloom"

#: Keys that older files lack; a model from before they existed has their defaults.
_SINCE = ("attention_bias", "qk_norm", "sliding_window", "sliding_window_layers", "embedding_scale")


@dataclass(frozen=True)
class DecoderConfig:
    """Everything that is needed to build a decoder again.

    Attributes:
        settings: The shape.
        vocab_size: Number of tokens.
        padded_vocab_size: Rows of the embedding.
        eos_token_id: The token that ends a text, or None.
    """

    settings: ModelConfig
    vocab_size: int
    padded_vocab_size: int
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.vocab_size < 1 or self.padded_vocab_size < self.vocab_size:
            raise ValueError(f"a vocabulary of {self.vocab_size} tokens does not fit into {self.padded_vocab_size} rows")

    def to_dict(self, dtype: str = "float32") -> dict[str, Any]:
        """The content of ``config.json``; ``dtype`` is that of the stored weights."""
        return {
            "model_type": MODEL_TYPE,
            "architectures": ["Decoder"],
            **{name: value for name, value in self.settings.to_dict().items() if name in shape_names()},
            "vocab_size": self.vocab_size,
            "padded_vocab_size": self.padded_vocab_size,
            "eos_token_id": self.eos_token_id,
            "torch_dtype": dtype,
        }

    def save_pretrained(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write ``config.json`` into ``folder``, which is made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_NAME).write_text(json.dumps(self.to_dict(dtype), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DecoderConfig:
        """The reverse of :meth:`to_dict`.

        Raises:
            ValueError: Naming every key that is missing, unknown or wrong.
        """
        own = ("model_type", "architectures", "vocab_size", "padded_vocab_size", "eos_token_id", "torch_dtype")
        missing = [name for name in (*shape_names(), *own[2:5]) if name not in (*content, *_SINCE)]
        if missing:
            raise ValueError(f"missing keys: {', '.join(missing)}")
        sizes = {name: content[name] for name in own[2:5]}
        wrong = [name for name, value in sizes.items() if type(value) is not int]
        if [name for name in wrong if name != "eos_token_id" or sizes[name] is not None]:
            raise ValueError(f"expected whole numbers: {sizes}")
        settings = ModelConfig.from_mapping({name: value for name, value in content.items() if name not in own})
        return cls(settings, **sizes)


def read_config(folder: str | Path) -> dict[str, Any]:
    """The content of ``config.json``.

    Raises:
        CheckpointError: If it is missing or not a JSON mapping.
    """
    path = Path(folder) / CONFIG_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: {folder} is not the folder of a model") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON mapping")
    return content


def read_decoder_config(folder: str | Path) -> DecoderConfig:
    """The configuration of the built-in decoder in ``folder``.

    Raises:
        CheckpointError: If there is none, it is of another model, or a key of it is wrong.
    """
    content = read_config(folder)
    if content.get("model_type") != MODEL_TYPE:
        raise CheckpointError(
            f"{folder} holds a model of type {content.get('model_type')!r}, not the built-in decoder "
            f"({MODEL_TYPE!r}): use ironloom.models.files.load_model"
        )
    try:
        return DecoderConfig.from_dict(content)
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"{Path(folder) / CONFIG_NAME}: {error}") from error
