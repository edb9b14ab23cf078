"""Tokenizers: text to token ids and back, on the library ``tokenizers`` alone.

Importing transformers would cost seconds at every start; what is saved here is loaded there by ``AutoTokenizer`` and
gives the same ids.
"""

from __future__ import annotations

import functools
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
import xxhash
from numpy.typing import NDArray

from ironloom.data import tokenizer_files
from ironloom.data.tokenizer_fast import FastTokenizer
from ironloom.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

END_TOKEN = "<|endoftext|>"

MIN_VOCAB_SIZE = 257
"""Of a byte-level tokenizer: one token for each byte, and the end token."""

CHAT_TEMPLATE = "chat_template.jinja"
SPECIAL_KINDS = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


class Tokenizer:
    """A ``tokenizers.Tokenizer`` together with what its file does not say: which token ends a text.

    Args:
        backend: The tokenizer proper. Truncation and padding that it brings along are switched off.
        config: The content of ``tokenizer_config.json``; ``eos_token`` and ``pad_token`` are read from it.
        extra_files: Further files that belong to it, such as a chat template; copied when it is saved.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: dict[str, Any] | None = None,
        extra_files: Iterable[Path] = (),
    ):
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._config = dict(config or {})
        self._extra_files = tuple(extra_files)
        self.eos_token_id: int | None = self._id_of("eos_token")
        pad_token_id = self._id_of("pad_token")
        self.pad_token_id: int | None = self.eos_token_id if pad_token_id is None else pad_token_id

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included: every id is below it."""
        ids = self._backend.get_vocab(with_added_tokens=True).values()
        return max(ids) + 1

    @functools.cached_property
    def fingerprint(self) -> str:
        """Equal for tokenizers that give the same ids and end a text with the same token."""
        return xxhash.xxh3_128_hexdigest(f"{self.eos_token_id}:{self._backend.to_str()}".encode())

    @functools.cached_property
    def special_tokens(self) -> dict[str, str]:
        """Texts of the special tokens that have a part to play, by name, as chat templates know them."""
        named = {kind: self._id_of(kind) for kind in SPECIAL_KINDS}
        return {kind: str(self._backend.id_to_token(token)) for kind, token in named.items() if token is not None}

    @functools.cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """Texts that are one token each whatever stands around them, and no words: those that end turns are among them."""
        added = self._backend.get_added_tokens_decoder().values()
        return tuple(sorted({*(token.content for token in added if token.special), *self.special_tokens.values()}, key=len, reverse=True))

    @functools.cached_property
    def chat_templates(self) -> dict[str, str]:
        """The chat templates that it comes with, by name: ``default``, and perhaps ``tool_use``."""
        found = self._config.get("chat_template")
        if isinstance(found, list):  # older files hold several
            templates = {str(entry["name"]): str(entry["template"]) for entry in found}
        else:
            templates = {"default": found} if isinstance(found, str) else {}
        for file in self._extra_files:
            if file.name == CHAT_TEMPLATE:  # where there is one, it counts
                templates["default"] = file.read_text(encoding="utf-8")
        return templates

    def with_chat_template(self, template: str) -> Tokenizer:
        """The same tokenizer with another chat template, which is saved with it."""
        others = (file for file in self._extra_files if file.name != CHAT_TEMPLATE)
        return Tokenizer(self._backend, {**self._config, "chat_template": template}, others)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, in parallel over the cores. No special tokens are added."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    @functools.cached_property
    def _fast(self) -> FastTokenizer | None:
        return FastTokenizer.of(self._backend)

    @property
    def is_fast(self) -> bool:
        """Whether :meth:`encode_flat` has the package ``gigatoken`` do it."""
        return self._fast is not None

    def encode_flat(self, texts: list[str], *, fast: bool = True) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of all texts one after the other, and the number of ids of each: for large amounts of text.

        Args:
            texts: The texts.
            fast: Whether the package ``gigatoken`` is used where it is installed and gives the same ids.

        Raises:
            TokenizersDifferError: If it did so far, and does not for a sample of these texts.
        """
        if fast and texts and self._fast is not None:
            return self._fast.encode_checked(texts)
        encoded = self.encode_batch(texts)
        lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
        flat = np.fromiter(itertools.chain.from_iterable(encoded), dtype=np.uint32, count=int(lengths.sum()))
        return flat, lengths

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_fast"}

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """The ids of one text; special tokens that the tokenizer puts around texts are added only on demand."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of ``ids``; ids that are no token, as in a padded vocabulary, give nothing."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def pad(
        self, samples: Sequence[Mapping[str, Any]], return_tensors: str = "pt", pad_to_multiple_of: int | None = None
    ) -> dict[str, torch.Tensor]:
        """A batch of samples, as collators of transformers ask for it.

        Args:
            samples: Values by name, each a tensor or a sequence of numbers.
            return_tensors: ``pt``, the only kind there is.
            pad_to_multiple_of: Fill up to the next multiple of this many tokens.

        Returns:
            Tensors by name, of shape (samples, longest). ``input_ids`` is filled up on the right with the padding token,
            ``attention_mask`` with 0.

        Raises:
            ValueError: If other values differ in length, there is no padding token to fill up with, or ``return_tensors``
                is another.
        """
        import torch

        if return_tensors != "pt":
            raise ValueError(f"return_tensors is 'pt', not {return_tensors!r}")
        batch = {}
        for name in samples[0]:
            rows = [torch.as_tensor(sample[name]) for sample in samples]
            fill = {"input_ids": self.pad_token_id, "attention_mask": 0}.get(name)
            length = max((len(row) for row in rows if row.ndim), default=0)
            if fill is not None:
                length += -length % (pad_to_multiple_of or 1)
            short = [row for row in rows if row.ndim and len(row) < length]
            if short and fill is None:
                raise ValueError(f"{name!r} differs in length, and there is nothing to fill it up with")
            if short:
                rows = [torch.nn.functional.pad(row, (0, length - len(row)), value=fill) for row in rows]
            batch[name] = torch.stack(rows)
        return batch

    def with_special_tokens(self, file: str | Path) -> Tokenizer:
        """The tokenizer with the special tokens of a file; those that it lacks get new ids.

        Args:
            file: JSON, an object: ``eos_token``, ``pad_token`` and the like, each a text, and ``additional_special_tokens``,
                a list of texts.

        Raises:
            DataError: If the file is not of this form.
        """
        tokens = tokenizer_files.special_tokens(Path(file).expanduser())
        single = {name: token for name, token in tokens.items() if isinstance(token, str)}
        more = [token for token in tokens.get("additional_special_tokens", ()) if token not in single.values()]
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        backend.add_special_tokens([*single.values(), *more])
        return Tokenizer(backend, self._config | tokens, self._extra_files)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files from which ``AutoTokenizer.from_pretrained(folder)`` makes an equal tokenizer."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._backend.to_str(pretty=True), encoding="utf-8")
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **self._config}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for file in self._extra_files:
            if file.resolve() != (folder / file.name).resolve():
                shutil.copyfile(file, folder / file.name)

    @classmethod
    def load(cls, name_or_path: str | Path) -> Tokenizer:
        """Load from a folder, a ``tokenizer.json``, or the Hugging Face hub.

        Raises:
            DataError: If there is no such tokenizer, the hub cannot be reached, or a file is damaged.
        """
        files = tokenizer_files.find(str(name_or_path))
        return cls(files.backend(), files.config(), files.extra())

    @classmethod
    def train(cls, documents: Iterable[str], vocab_size: int) -> Tokenizer:
        """Train a byte-level BPE; the same documents give the same tokenizer.

        Args:
            documents: The text. It is read once, and not kept.
            vocab_size: Number of ids, with the 256 bytes and the end token; fewer if the text has no more pairs.

        Raises:
            ConfigError: If ``vocab_size`` has no room for the bytes.
            DataError: If there is no text.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise ConfigError(
                f"vocab_size: a byte-level tokenizer needs at least {MIN_VOCAB_SIZE} (each byte, and the end token), found {vocab_size}"
            )
        backend = _byte_level(tokenizers.models.BPE())
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_TOKEN],
            initial_alphabet=byte_alphabet(),
            show_progress=False,
        )
        texts = _Counted(documents)
        backend.train_from_iterator(texts, trainer=trainer)
        if texts.count == 0:
            raise DataError("there is no text to train a tokenizer on")
        return cls(backend, _end_config())

    @classmethod
    def bytes(cls) -> Tokenizer:
        """The tokenizer whose ids are the bytes of UTF-8, and 256 for the end of a text."""
        vocabulary = {character: byte for byte, character in enumerate(byte_alphabet())}
        backend = _byte_level(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
        backend.add_special_tokens([END_TOKEN])
        return cls(backend, _end_config())

    def _id_of(self, kind: str) -> int | None:
        """The id of a special token; for the end token also from the names that are in use for it."""
        token = self._config.get(kind)
        if isinstance(token, dict):  # older files hold the token with its properties
            token = token.get("content")
        names = [token] if isinstance(token, str) else []
        if not names and kind == "eos_token":
            names = [END_TOKEN, "</s>", "<|end_of_text|>", "<eos>"]
        ids = (self._backend.token_to_id(name) for name in names)
        return next((found for found in ids if found is not None), None)


class _Counted(Iterator[str]):
    """Passes documents on and counts them."""

    def __init__(self, documents: Iterable[str]):
        self._documents = iter(documents)
        self.count = 0

    def __next__(self) -> str:
        document = next(self._documents)
        self.count += 1
        return document


def _byte_level(model: Any) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte in GPT-2's byte-level vocabularies, by byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _end_config() -> dict[str, Any]:
    return {"eos_token": END_TOKEN, "pad_token": END_TOKEN}
