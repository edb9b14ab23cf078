"""What the model writes while it learns."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ironloom.callbacks.base import TrainerCallback
from ironloom.callbacks.records import RecordFile, log_folder
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import nearest
from ironloom.settings.training import TrainingArguments

logger = logging.getLogger("ironloom")

#: How text is drawn without a generation_config.
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9}
#: What generation knows for the built-in decoder.
_DECODER_KEYS = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens", "eos_token_id")


class TextgenCallback(TrainerCallback):
    """Continues prompts every so many steps, or at each evaluation, and records the texts.

    They go to ``textgen.jsonl`` in the run's folder of logs, to the program's log (level INFO) and to
    TensorBoard. Training is not disturbed: the trained weights are the same bits as without.

    Args:
        summary_writer: A ``torch.utils.tensorboard.SummaryWriter``; None: no TensorBoard.
        prompts: Texts to continue.
        generation_config: How to draw: a mapping or a ``transformers.GenerationConfig``. The built-in
            decoder knows ``do_sample``, ``temperature``, ``top_k``, ``top_p``, ``repetition_penalty``,
            ``max_new_tokens`` and ``eos_token_id``; models of transformers know all that it names. None: ``SAMPLING``.
        generation_steps: Optimizer steps between two generations; None: at each evaluation.
        max_new_tokens: Tokens to add at most; None: that of ``generation_config``, or 200.

    Raises:
        ConfigError: For arguments that cannot be, and when training begins for keys that the model's
            generation does not know, or a model or tokenizer that cannot generate.
    """

    def __init__(
        self,
        summary_writer: Any = None,
        prompts: Sequence[str] = (),
        generation_config: Any = None,
        generation_steps: int | None = None,
        max_new_tokens: int | None = None,
    ):
        self._writer = summary_writer
        self._prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        self._settings = _settings(generation_config, max_new_tokens)
        self._every = generation_steps
        self._file: RecordFile | None = None
        self._takes_part = False
        problems = []
        if not self._prompts or not all(isinstance(prompt, str) and prompt for prompt in self._prompts):
            problems.append(Problem(f"expected texts that are not empty, found {self._prompts}", path="prompts"))
        if generation_steps is not None and generation_steps < 1:
            problems.append(Problem(f"expected at least 1, found {generation_steps}", path="generation_steps"))
        if self._settings["max_new_tokens"] < 1:
            problems.append(Problem(f"expected at least 1, found {self._settings['max_new_tokens']}", path="max_new_tokens"))
        if problems:
            raise ConfigError(problems)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """See that this model can generate; drop what a run that was set back will write again."""
        self._takes_part = state.is_world_process_zero or _is_spread(kwargs["model"])
        if not self._takes_part:
            return
        _check(kwargs["model"], kwargs["processing_class"], self._prompts[0], self._settings)
        if not state.is_world_process_zero:
            return
        if self._every is None and args.eval_strategy == "no":
            raise ConfigError("TextgenCallback generates at each evaluation, but there is none: set generation_steps or eval_strategy")
        self._file = RecordFile(log_folder(args) / "textgen.jsonl")
        step = state.global_step
        self._file.replace([record for record in self._file.read() if record.get("step", step + 1) <= step] if step else [])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Generate, if it is time."""
        if self._every is not None and state.global_step % self._every == 0:
            self._generate_all(args, state, kwargs["model"], kwargs["processing_class"])

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Generate, unless steps were given."""
        if self._every is None:
            self._generate_all(args, state, kwargs["model"], kwargs["processing_class"])

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Later evaluations are not those of training."""
        self._file, self._takes_part = None, False

    def close(self) -> None:
        """Training ended by an error."""
        self._file, self._takes_part = None, False

    def _generate_all(self, args: TrainingArguments, state: TrainerState, model: Any, tokenizer: Any) -> None:
        from ironloom.device import random_key

        if not self._takes_part:
            return
        step = state.global_step
        for number, prompt in enumerate(self._prompts):
            text = continued(model, tokenizer, prompt, self._settings, random_key("textgen", args.seed, step, number))
            if self._file is None:
                continue
            self._file.append({"step": step, "prompt": prompt, "text": text})
            logger.info("step %d: %s | %s", step, *(" ".join(part.split()) for part in (prompt, text)))
            if self._writer is not None:
                self._writer.add_text(f"textgen/{number}", f"**{prompt}**{text}", step)
        if self._writer is not None:
            self._writer.flush()


def _is_spread(model: Any) -> bool:
    """Whether processes share the model's weights: then all of them must run it, or none can."""
    from ironloom.weights.sharded import is_sharded

    return any(is_sharded(parameter) for parameter in model.parameters())


def continued(model: Any, tokenizer: Any, prompt: str, settings: Mapping[str, Any], key: int) -> str:
    """What a model adds to a prompt; the generators are as before afterwards, and every module in the mode it was in.

    Args:
        model: The built-in decoder or a model of transformers.
        tokenizer: Of the model.
        prompt: The text to continue.
        settings: What generation knows for this model.
        key: The same key draws the same text.
    """
    import torch

    from ironloom.device import generator_states, restore_generators, seed_everything
    from ironloom.models.decoder import Decoder
    from ironloom.models.generate import generate

    ids = torch.tensor([tokenizer.encode(prompt)], device=next(model.parameters()).device)
    left = {"eos_token_id": tokenizer.eos_token_id, **settings}
    if isinstance(model, Decoder):
        sampled, temperature = left.pop("do_sample"), left.pop("temperature", 1.0)
        written = generate(model, ids, temperature=temperature if sampled else 0.0, seed=key, **left)
    else:
        states = generator_states()
        seed_everything(key)
        written = _by_transformers(model, ids, left)
        restore_generators(states)
    begun, whole = (tokenizer.decode(part[0].tolist(), skip_special_tokens=True) for part in (ids, written))
    return str(whole[len(begun) :])


def _check(model: Any, tokenizer: Any, prompt: str, settings: Mapping[str, Any]) -> None:
    """Refuse at the beginning what would fail at the first generation."""
    from ironloom.models.decoder import Decoder

    if not callable(getattr(tokenizer, "encode", None)) or not callable(getattr(tokenizer, "decode", None)):
        raise ConfigError("TextgenCallback needs a tokenizer: give the trainer a processing_class")
    if isinstance(model, Decoder):
        known: Sequence[str] = _DECODER_KEYS
    elif callable(getattr(model, "generate", None)):
        from transformers import GenerationConfig

        known = list(GenerationConfig().to_dict())
    else:
        raise ConfigError(f"TextgenCallback cannot generate with {type(model).__name__}: it has no generate()")
    problems = [_unknown(key, known) for key in settings if key not in known]
    if problems:
        raise ConfigError(problems)
    try:
        continued(model, tokenizer, prompt, {**settings, "max_new_tokens": 1}, key=0)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"TextgenCallback cannot continue {prompt!r}: {error}") from error


def _settings(generation_config: Any, max_new_tokens: int | None) -> dict[str, Any]:
    """What is set, of a mapping or a GenerationConfig."""
    if generation_config is None:
        settings = dict(SAMPLING)
    elif isinstance(generation_config, Mapping):
        settings = dict(generation_config)
    elif callable(getattr(generation_config, "to_diff_dict", None)):
        settings = {key: value for key, value in generation_config.to_diff_dict().items() if key != "transformers_version"}
    else:
        raise ConfigError(f"generation_config must be a mapping or a GenerationConfig, found {type(generation_config).__name__}")
    settings.setdefault("do_sample", any(settings.get(key) is not None for key in ("temperature", "top_k", "top_p")))
    given = settings.setdefault("max_new_tokens", 200 if max_new_tokens is None else max_new_tokens)
    if max_new_tokens not in (None, given):
        raise ConfigError(f"max_new_tokens is {max_new_tokens}, and {given} in generation_config: give one")
    return settings


def _unknown(key: str, known: Sequence[str]) -> Problem:
    near = nearest(key, known)
    hint = f"did you mean {near!r}?" if near else "it knows " + ", ".join(sorted(known))
    return Problem("this model's generation does not know this key", path=f"generation_config.{key}", hint=hint)


def _by_transformers(model: Any, ids: Any, settings: dict[str, Any]) -> Any:
    """Continue with the model's own ``generate``, in evaluation mode, within the length that its positions allow."""
    import torch
    from transformers import GenerationConfig

    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None:
        settings["max_new_tokens"] = min(settings["max_new_tokens"], limit - ids.shape[1])
        if settings["max_new_tokens"] < 1:
            return ids
    if settings.get("pad_token_id") is None:
        settings["pad_token_id"] = settings["eos_token_id"]
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=GenerationConfig(**settings))
    finally:
        for module in training:
            module.training = True
