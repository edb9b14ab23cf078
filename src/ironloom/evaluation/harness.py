"""Our models for lm-evaluation-harness. Imported only where its tasks are run; needs the extra ``eval``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ironloom.errors import ConfigError
from ironloom.evaluation.scoring import score
from ironloom.models.cache import lookback
from ironloom.models.generate_text import continue_texts
from ironloom.models.sampling import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ironloom.data.tokenizer import Tokenizer
    from ironloom.models.decoder import Decoder

#: Tokens of an answer where a task does not say.
_NEW_TOKENS = 256
_KNOWN = {"do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "until", "max_gen_toks"}


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A model as the harness asks it. Its numbers are those of the harness's own model for ``transformers``.

    Args:
        model: A decoder, or a causal model of ``transformers``.
        tokenizer: Its tokenizer.
        end: The tokens that end a text.
        batch_size: Texts that are read at once.
        max_length: Tokens that are read at once; None: as many as the model reads.
    """

    def __init__(
        self, model: Decoder | PreTrainedModel, tokenizer: Tokenizer, end: Iterable[int], batch_size: int, max_length: int | None = None
    ):
        super().__init__()
        self._model, self._tokenizer, self._batch_size = model, tokenizer, batch_size
        limit = lookback(model)
        if max_length is not None and not 1 <= max_length <= limit:
            raise ConfigError(f"a window of {max_length} tokens: expected at least 1, and at most the {limit} that the model reads")
        self.max_length = max_length or limit
        if tokenizer.eos_token_id is None:
            raise ConfigError("tasks need a tokenizer with an end token, which stands where a text has nothing before it")
        self._end = {tokenizer.eos_token_id, *end}

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        assert self._tokenizer.eos_token_id is not None
        return self._tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it: the token that begins texts, else the one that ends them."""
        begin = self._tokenizer.special_tokens.get("bos_token")
        return self.eot_token_id if begin is None else self._tokenizer.encode(begin)[0]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text, with the special tokens that the tokenizer adds unless ``add_special_tokens`` is false."""
        begin = self._tokenizer.special_tokens.get("bos_token")
        if add_special_tokens is None:
            add_special_tokens = begin is None or not string.startswith(begin)
        return self._tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation after its context, and whether it is the likeliest."""
        rows = [(context + wanted)[-(self.max_length + 1) :] for _, context, wanted in requests]
        order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
        found: list[tuple[float, bool]] = [(math.nan, False)] * len(rows)
        for begin in range(0, len(order), self._batch_size):
            batch = order[begin : begin + self._batch_size]
            for row, scored in zip(batch, score(self._model, [rows[row] for row in batch]), strict=True):
                count = len(requests[row][2])
                found[row] = float(scored.log_probabilities[-count:].sum()), bool(scored.greedy[-count:].all())
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, read in windows that do not overlap."""
        windows: list[tuple[None, list[int], list[int]]] = []
        counts = []
        for request in requests:
            tokens = self.tok_encode(request.args[0])
            parts = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1)
            new = [(None, *make_disjoint_window(part)) for part in parts]
            windows.extend(new)
            counts.append(len(new))
        scored = iter(self._loglikelihood_tokens(windows))
        return [sum(next(scored)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, each until one of its task's strings or the end of the text.

        Raises:
            ConfigError: If a task asks for a way of drawing that is not known, or for more tokens than the model reads.
        """
        asked = [normalize_gen_kwargs(request.args[1], _NEW_TOKENS) for request in requests]
        groups: dict[str, list[int]] = {}
        for row, options in enumerate(asked):
            groups.setdefault(repr(sorted(options.items(), key=str)), []).append(row)
        found = [""] * len(requests)
        for rows in groups.values():
            options = asked[rows[0]]
            sampling, room = _sampling(options), int(options["max_gen_toks"])
            if room >= self.max_length:
                raise ConfigError(f"the task asks for {room} new tokens, but the model reads {self.max_length}")
            prompts = {row: self.tok_encode(requests[row].args[0])[-(self.max_length - room) :] for row in rows}
            rows.sort(key=lambda row: -len(prompts[row]))
            for begin in range(0, len(rows), self._batch_size):
                batch = rows[begin : begin + self._batch_size]
                written = continue_texts(
                    self._model,
                    self._tokenizer,
                    [prompts[row] for row in batch],
                    sampling,
                    max_new_tokens=room,
                    seeds=batch,
                    end=self._end,
                    stop=[string for string in options["until"] if string],
                )
                for row, text in zip(batch, written, strict=True):
                    found[row] = text.text
        return found


def _sampling(options: dict[str, Any]) -> Sampling:
    unknown = sorted(set(options) - _KNOWN)
    if unknown:
        raise ConfigError(f"the task draws tokens by {', '.join(unknown)}, which is not known (known: {', '.join(sorted(_KNOWN))})")
    if not options["do_sample"]:
        return Sampling(repetition_penalty=options.get("repetition_penalty", 1.0))
    names = ("temperature", "top_k", "top_p", "repetition_penalty")
    return Sampling(**{name: options[name] for name in names if options.get(name) is not None})
