"""Tokenizers of ``tiktoken`` and ``sentencepiece``, made into those of ``tokenizers``.

So everything else knows one kind, and what is saved is loaded by ``AutoTokenizer``. The original is needed once: on texts
chosen to be difficult its ids are compared, and a conversion that gives others is refused.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from ironloom.data.tokenizer_fast import difficult_texts
from ironloom.errors import DataError, ResourceError

log = logging.getLogger(__name__)

# Of difficult texts; the two libraries break ties of Unigram and normalize rare marks differently.
_TOLERANCE = 0.02
_CONTROL, _USER_DEFINED = 3, 4  # types of a piece
_UNIGRAM, _BPE = 1, 2


def from_tiktoken(name: str) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The encoding of a name, such as ``cl100k_base``.

    Returns:
        The tokenizer and what stands in its ``tokenizer_config.json``.

    Raises:
        DataError: If there is no such encoding, it cannot be loaded, or the conversion gives other ids.
        ResourceError: If the package is not installed.
    """
    try:
        import tiktoken
    except ImportError as error:
        raise _absent("tiktoken") from error
    try:
        encoding = tiktoken.get_encoding(name)
    except ValueError as error:
        raise DataError(f"tiktoken has no encoding {name!r} (one of {', '.join(tiktoken.list_encoding_names())})") from error
    except Exception as error:  # of the network, whichever library it goes through
        raise DataError(
            f"the encoding {name!r} of tiktoken cannot be loaded: {type(error).__name__}: {error} (without a network: set "
            f"TIKTOKEN_CACHE_DIR, now {os.environ.get('TIKTOKEN_CACHE_DIR')!r}, to a folder in which it was loaded elsewhere)"
        ) from error
    return converted_encoding(encoding), {"eos_token": "<|endoftext|>"}


def converted_encoding(encoding: Any) -> tokenizers.Tokenizer:
    """A ``tiktoken.Encoding`` as byte-level BPE.

    Raises:
        DataError: If it gives other ids.
    """
    from ironloom.data.tokenizer import byte_alphabet

    alphabet = byte_alphabet()
    ranks: dict[bytes, int] = encoding._mergeable_ranks
    spelled = {token: "".join(alphabet[byte] for byte in token) for token in ranks}
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()} | encoding._special_tokens
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1:
            parts = _parts_of(token, ranks)
            if len(parts) == 2:
                merges.append((spelled[parts[0]], spelled[parts[1]]))
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    # The library's patterns have no possessive {n,m}+; a lazy reading of them would take more than m.
    pattern = re.sub(r"(\{\d+,\d+\})\+", r"\1", encoding._pat_str)
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in encoding._special_tokens])
    _compare(backend, lambda text: encoding.encode(text, allowed_special="all"), f"the encoding {encoding.name!r} of tiktoken")
    return backend


def _parts_of(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """What the bytes of a token are merged to by the tokens of lower rank: its two halves."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        candidates = [(ranks.get(parts[index] + parts[index + 1], len(ranks) * 2), index) for index in range(len(parts) - 1)]
        rank, index = min(candidates)
        if rank >= ranks[token]:
            break
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts


def from_sentencepiece(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The model in a file, BPE or Unigram.

    Returns:
        The tokenizer and what stands in its ``tokenizer_config.json``.

    Raises:
        DataError: If the file is no such model, of another kind, or the conversion gives other ids.
        ResourceError: If the package is not installed.
    """
    try:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise _absent("sentencepiece") from error
    try:
        content = path.read_bytes()
        processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        model: Any = sentencepiece_model_pb2.ModelProto.FromString(content)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf's own kinds, and RuntimeError
        raise DataError(f"{path}: not a model of sentencepiece: {error}") from error
    spec, norm = model.trainer_spec, model.normalizer_spec
    if spec.model_type not in (_UNIGRAM, _BPE) or not norm.escape_whitespaces or spec.treat_whitespace_as_suffix:
        raise DataError(f"{path}: only BPE and Unigram models with escaped spaces before words can be used")
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    if spec.model_type == _UNIGRAM:
        kind: Any = models.Unigram(pieces, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)
    else:
        ids = {piece: number for number, (piece, _) in enumerate(pieces)}
        kind = models.BPE(ids, _merges(ids, dict(pieces)), unk_token=spec.unk_piece, fuse_unk=True, byte_fallback=spec.byte_fallback)
    backend = tokenizers.Tokenizer(kind)
    steps: list[Any] = [normalizers.Precompiled(norm.precompiled_charsmap)] if norm.precompiled_charsmap else []
    if norm.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if norm.add_dummy_prefix:
        steps.append(normalizers.Prepend("\u2581"))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    strip = [decoders.Strip(" ", 1, 0)] if norm.add_dummy_prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    added = [piece for piece in model.pieces if piece.type in (_CONTROL, _USER_DEFINED)]
    backend.add_tokens([AddedToken(piece.piece, normalized=False, special=piece.type == _CONTROL) for piece in added])
    _compare(backend, processor.encode, str(path), leave_out=[piece.piece for piece in added], tolerance=_TOLERANCE)
    names = {
        "eos_token": processor.eos_id(),
        "bos_token": processor.bos_id(),
        "pad_token": processor.pad_id(),
        "unk_token": processor.unk_id(),
    }
    return backend, {name: processor.id_to_piece(number) for name, number in names.items() if number >= 0}


def _merges(ids: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """The merges that make each piece of two others, by the score of what they make."""
    found = []
    for piece, score in scores.items():
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = sorted((ids[left], ids[right], left, right) for left, right in pairs if left in ids and right in ids)
        found += [(score, left, right) for _, _, left, right in known]
    found.sort(key=lambda merge: (-merge[0], -len(merge[1]), -len(merge[2])))
    return [(left, right) for _, left, right in found]


def _compare(
    backend: tokenizers.Tokenizer, encode: Callable[[str], list[int]], what: str, leave_out: Sequence[str] = (), tolerance: float = 0.0
) -> None:
    """Compare the ids with the original's on difficult texts.

    Args:
        backend: The conversion.
        encode: The original.
        what: What it is called in messages.
        leave_out: Texts with one of these are not compared: the original reads them as plain text, ours as what they stand for.
        tolerance: Share of the texts whose ids may differ, with a warning.

    Raises:
        DataError: If more differ.
    """
    texts = [text for text in difficult_texts(backend) if not any(token in text for token in leave_out)]
    wrong = [text for text in texts if backend.encode(text, add_special_tokens=False).ids != encode(text)]
    if not wrong:
        return
    found = f"{what}: its form for tokenizers gives other ids for {len(wrong)} of {len(texts)} difficult texts, such as {wrong[0][:40]!r}"
    if len(wrong) > tolerance * len(texts):
        raise DataError(f"{found}; use a tokenizer.json of the same tokenizer (set vocab_name_or_path)")
    log.warning("%s; it is the same in other text, and used in training and generation alike", found)


def _absent(package: str) -> ResourceError:
    return ResourceError(f'tokenizer_type {package} needs the package {package}, which is not installed: pip install "ironloom[{package}]"')
