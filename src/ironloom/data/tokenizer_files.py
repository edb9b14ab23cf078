"""The files of a tokenizer, in a folder, alone, or on the Hugging Face hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from ironloom.errors import DataError

_CONFIG = "tokenizer_config.json"
_EXTRA = ("special_tokens_map.json", "chat_template.jinja", "added_tokens.json")


@dataclass(frozen=True)
class TokenizerFiles:
    """Where a tokenizer lies.

    Attributes:
        tokenizer: ``tokenizer.json``, or ``vocab.json`` of the older pair with ``merges.txt``.
    """

    tokenizer: Path

    def backend(self) -> tokenizers.Tokenizer:
        """The tokenizer in the file.

        Raises:
            DataError: If the file cannot be read or is damaged.
        """
        try:
            if self.tokenizer.name == "vocab.json":
                return _from_vocabulary(self.tokenizer, self.tokenizer.with_name("merges.txt"))
            return tokenizers.Tokenizer.from_file(str(self.tokenizer))
        except Exception as error:  # the library raises nothing but bare Exception
            raise DataError(f"{self.tokenizer}: not a readable tokenizer: {error}") from error

    def config(self) -> dict[str, Any]:
        """What ``tokenizer_config.json`` says, with the tokens of ``special_tokens_map.json`` where it is silent.

        Raises:
            DataError: If a file is damaged.
        """
        special = _object(self.tokenizer.with_name("special_tokens_map.json"))
        return special | _object(self.tokenizer.with_name(_CONFIG))

    def extra(self) -> list[Path]:
        """Further files that belong to it."""
        beside = [self.tokenizer.with_name(name) for name in _EXTRA]
        return [file for file in beside if file.is_file()]


def find(name_or_path: str) -> TokenizerFiles:
    """The files of a tokenizer that is named by a folder, a file, or an id on the hub.

    Raises:
        DataError: If there is none.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return TokenizerFiles(path)
    if path.is_dir():
        return _in_folder(path)
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1 or path.suffix == ".json":
        raise DataError(f"{path}: no such file or folder")
    return _on_hub(name_or_path)


def is_converted(name_or_path: str) -> bool:
    """Whether a path is a ``tokenizer.json``, or a folder with one."""
    path = Path(name_or_path).expanduser()
    return path.suffix == ".json" or (path / "tokenizer.json").is_file()


def find_model(name_or_path: str) -> Path:
    """The model of ``sentencepiece`` that a file, or a folder with one, means.

    Raises:
        DataError: If there is none.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    found = sorted(path.glob("*.model")) if path.is_dir() else []
    if len(found) != 1:
        what = f"{len(found)} files *.model in it" if path.is_dir() else "no such file or folder"
        raise DataError(f"{path}: {what} (set vocab_name_or_path to the .model file of a sentencepiece tokenizer)")
    return found[0]


def special_tokens(file: Path) -> dict[str, Any]:
    """What a file of special tokens says.

    Raises:
        DataError: If it is not of the form that ``Tokenizer.with_special_tokens`` describes.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    tokens = _object(file)
    for name, token in tokens.items():
        many = name == "additional_special_tokens"
        right = isinstance(token, list) and all(isinstance(one, str) and one for one in token) if many else isinstance(token, str) and token
        if not right or not (many or name.endswith("_token")):
            expected = "a list of texts" if many else "NAME_token: text, or additional_special_tokens: a list"
            raise DataError(f"{file}: {name}: expected {expected}, found {token!r}")
    return tokens


def _in_folder(folder: Path) -> TokenizerFiles:
    if (folder / "tokenizer.json").is_file():
        return TokenizerFiles(folder / "tokenizer.json")
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return TokenizerFiles(folder / "vocab.json")
    raise DataError(
        f"{folder}: no tokenizer.json in it (write one: transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER))"
    )


def _on_hub(name: str) -> TokenizerFiles:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        tokenizer = Path(hf_hub_download(name, "tokenizer.json"))
    except Exception as error:  # the hub and the network each have their own kinds
        raise DataError(
            f"tokenizer {name!r}: no file or folder of this name is here, and from the Hugging Face hub it cannot be "
            f"loaded: {type(error).__name__}: {error} (without a network: set vocab_name_or_path to a folder with "
            "tokenizer.json, or tokenizer_type: bbpe with vocab_name_or_path: null to train one on the corpus, "
            "or tokenizer_type: byte)"
        ) from error
    for other in (_CONFIG, *_EXTRA):
        try:
            hf_hub_download(name, other)
        except EntryNotFoundError:  # also what an offline cache says of a file that it does not hold
            continue
    return TokenizerFiles(tokenizer)


def _from_vocabulary(vocabulary: Path, merges: Path) -> tokenizers.Tokenizer:
    """GPT-2's two files, as they were before ``tokenizer.json``."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(vocabulary), str(merges)))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    end = "<|endoftext|>"
    if backend.token_to_id(end) is not None:
        backend.add_special_tokens([end])
    return backend


def _object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected a JSON object")
    return content
