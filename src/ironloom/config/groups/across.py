"""Rules across groups. A rule looks only at values that are right themselves, so that no mistake is reported twice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ironloom.config.groups import batch, documents, loaded
from ironloom.config.groups.gathered import DATA_FILE, SCHEMAS, Gathered
from ironloom.config.validate import below, is_unknown_key
from ironloom.errors import Origin, Problem
from ironloom.settings.data import DataGroup
from ironloom.settings.dream.world import fitting, nearest_divisors

PROCESS = {"rank": ("RANK", -1, 0), "local_rank": ("LOCAL_RANK", 0, 0), "world_size": ("WORLD_SIZE", 1, 1)}
ENVIRONMENT = Origin("environment", route="environment")
SHARING = ("trainer.tensor_model_parallel_size", "trainer.pipeline_model_parallel_size")
PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
BYTES = 257  # a byte-level vocabulary: every byte, and the end of text


class Facts:
    """The values that are known to be right.

    A key with a problem is unknown. So is a key that is not given in a group, or a file, where an unknown key
    stands: it may be the one that was meant.
    """

    def __init__(self, found: Gathered, problems: Iterable[Problem]):
        self.found = found
        self._wrong = {problem.path for problem in problems}
        self._vague = {problem.path.partition(".")[0] for problem in problems if _is_vague(problem)}
        self._any_group = any("there is no group" in problem.message for problem in problems)
        self._defaults: dict[str, Any] = {}

    def __call__(self, *paths: str) -> list[Any] | None:
        """The values of ``group.key`` paths; None if one of them is unknown."""
        return [self._value(path) for path in paths] if all(map(self._known, paths)) else None

    def _known(self, path: str) -> bool:
        group, _, key = path.partition(".")
        if any(wrong in (group, path) or wrong.startswith(f"{path}.") for wrong in self._wrong):
            return False
        given = self.found.given(group, key)
        return given or not (group in self._vague or (self._any_group and group not in self.found.values))

    def _value(self, path: str) -> Any:
        group, _, key = path.partition(".")
        if self.found.given(group, key):
            return self.found.values[group][key]
        if group not in self._defaults:
            self._defaults[group] = SCHEMAS[group]()
        return getattr(self._defaults[group], key)


def _is_vague(problem: Problem) -> bool:
    return is_unknown_key(problem) or " belongs to " in problem.message or "." not in problem.path


def problems(facts: Facts, environment: Mapping[str, str]) -> Iterator[Problem]:
    """Every problem across groups but those of the batch sizes."""
    yield from _processes(facts, environment)
    yield from _products(facts, environment)
    yield from _precision(facts)
    yield from _schedule(facts)
    yield from _parts(facts)
    yield from _datasets(facts)
    yield from _preferences(facts)
    yield from documents.problems(facts)
    yield from _heads(facts)
    yield from _kernel(facts)
    yield from _lengths(facts)
    yield from _vocabulary(facts)
    yield from _tokenizer(facts)
    yield from loaded.problems(facts)


def batch_sizes(facts: Facts, environment: Mapping[str, str]) -> batch.Batch | Problem | None:
    """The three batch sizes, or why they cannot be; None if a number they need is unknown."""
    values = facts("trainer.micro_batch_size", "trainer.train_batch_size", "trainer.gradient_accumulation_steps", *SHARING)
    world = _number(environment, "WORLD_SIZE", 1)
    if values is None or world is None:
        return None
    micro, total, accumulation, *sharing = values
    ranks = max(1, world // math.prod(sharing))
    if not facts.found.given("trainer", "micro_batch_size") and total and accumulation:
        micro = None
    sizes = batch.resolve(micro, accumulation, total, ranks)
    return below("trainer", sizes) if isinstance(sizes, Problem) else sizes


def _preferences(facts: Facts) -> Iterator[Problem]:
    """Pairs of rows are not shared by processes yet."""
    values = facts("data.task_type", "data.train_datasets", *SHARING)
    if values is None or DataGroup(task_type=values[0], train_datasets=values[1]).task != "dpo":
        return
    for path, size in zip(SHARING, values[2:], strict=True):
        if size > 1:
            yield Problem("is not available yet for preferences", path=path, hint="leave it at 1: processes then share the pairs")


def _number(environment: Mapping[str, str], name: str, default: int) -> int | None:
    """A process number of the launcher; None if it is none."""
    text = environment.get(name, str(default))
    return int(text) if text.isdecimal() and int(text) >= (name == "WORLD_SIZE") else None


def _processes(facts: Facts, environment: Mapping[str, str]) -> Iterator[Problem]:
    """Process numbers in a file can only repeat what the launcher says."""
    for key, (variable, default, alone) in PROCESS.items():
        actual = _number(environment, variable, alone)
        if actual is None:
            yield Problem(f"expected a whole number, found {environment[variable]!r}", variable, ENVIRONMENT)
            continue
        values = facts(f"parallel.{key}")
        if values and values[0] not in (default, actual):
            message = f"{values[0]} is not what the environment says: {actual}"
            yield Problem(message, f"parallel.{key}", hint=f"leave the key out; the launcher sets {variable}")


def _products(facts: Facts, environment: Mapping[str, str]) -> Iterator[Problem]:
    """Processes that share a model are some of all. Without a launcher their number is not known yet."""
    world, values = _number(environment, "WORLD_SIZE", 1), facts(*SHARING)
    if "WORLD_SIZE" not in environment or world is None or values is None or world % math.prod(values) == 0:
        return
    path, size, other = max(zip(SHARING, values, reversed(values), strict=True), key=lambda each: each[1])
    message = f"{' x '.join(str(value) for value in values if value > 1)} processes that share a model do not divide the {world} there are"
    yield Problem(message, path, hint=fitting(size, other, world))


def _kernel(facts: Facts) -> Iterator[Problem]:
    """FlexAttention has no dropout. A model that is loaded brings its own, and is looked at when it is there."""
    values = facts("trainer.use_flash_attn", "model.name_or_path", "model.dropout_attn")
    if values is not None and values[0] == "flex" and values[1] is None and values[2]:
        message = f"flex drops no attention weights, but model.dropout_attn is {values[2]:g}"
        yield Problem(message, "trainer.use_flash_attn", hint="set model.dropout_attn: 0.0, or leave the key out")


def _precision(facts: Facts) -> Iterator[Problem]:
    """The type of the arithmetic is said twice, differently."""
    values = facts("parallel.fsdp_mixed_precision", "model.precision")
    if values is None or not facts.found.given("model", "precision") or values[0] == "mixed" or PRECISIONS[values[0]] == values[1]:
        return
    yield Problem(
        f"{values[0]!r} contradicts model.precision {values[1]!r}",
        "parallel.fsdp_mixed_precision",
        hint="keep one of the two, or write mixed",
    )


def _schedule(facts: Facts) -> Iterator[Problem]:
    values = facts("optim.warmup_steps", "operation.train_steps")
    if values and values[0] > values[1]:
        message = f"the warm-up of {values[0]} steps is longer than the run of operation.train_steps {values[1]}"
        yield Problem(message, "optim.warmup_steps", hint=f"at most {values[1]}")
    values = facts("optim.lr_scheduler", "optim.warmup_steps", "optim.annealing_steps", "operation.train_steps")
    if values and values[0] == "warmup_stable_decay" and values[1] <= values[3] < values[1] + values[2]:
        message = f"the fall of {values[2]} steps at the end is longer than what the warm-up leaves of operation.train_steps {values[3]}"
        yield Problem(message, "optim.annealing_steps", hint=f"at most {values[3] - values[1]}")


def _parts(facts: Facts) -> Iterator[Problem]:
    """An optimizer that needs whole weights where each process has a part of them."""
    values = facts("optim.optimizer", "parallel.use_fsdp", "parallel.fsdp_sharding_strategy", "trainer.tensor_model_parallel_size")
    if values and values[0] == "adamw_8bit" and ((values[1] and values[2] != "no_shard") or values[3] > 1):
        message = "'adamw_8bit' scales blocks of whole weights, of which each process has a part here"
        yield Problem(message, "optim.optimizer", hint="choose adamw, or leave out parallel.use_fsdp and tensor_model_parallel_size")


def _datasets(facts: Facts) -> Iterator[Problem]:
    values = facts("data.train_datasets", "data.config_path")
    if values and not values[0]:
        yield Problem("nothing to train on", "data.train_datasets", hint="for example: train_datasets: [python-docs]")
    values = facts("trainer.do_eval", "data.splits", "data.eval_datasets", "data.train_datasets")
    if values and values[0] and values[1][1] == 0 and not values[2] and values[3]:
        yield Problem("evaluates, but there is nothing to evaluate on", "trainer.do_eval", hint="set data.eval_datasets or data.splits")


def _heads(facts: Facts) -> Iterator[Problem]:
    """Each process of a tensor-parallel group holds the same number of heads, of their groups, and of hidden units."""
    keys = ("model.num_attention_heads", "model.num_attention_groups", "model.d_ffn")
    values, found = facts(*keys), facts("trainer.tensor_model_parallel_size", "model.name_or_path")
    if values is None or found is None or found[1] is not None:
        return
    devices = found[0]
    counts = [value for value in values if value is not None]
    for key, value in zip(keys, values, strict=True):
        if value is not None and value % devices:
            message = f"{value} is not a multiple of trainer.tensor_model_parallel_size {devices}"
            near = nearest_divisors(devices, math.gcd(*counts))
            yield Problem(message, key, hint=f"each process holds the same number; tensor_model_parallel_size {near} would fit")


def _lengths(facts: Facts) -> Iterator[Problem]:
    values = facts("data_file.seq_length", "model.max_seq_len")
    if values and values[0] is not None and values[0] > values[1]:
        message = f"samples of {values[0]} tokens are longer than model.max_seq_len {values[1]}"
        yield Problem(message, "data_file.seq_length", hint="raise model.max_seq_len or lower seq_length")


def _vocabulary(facts: Facts) -> Iterator[Problem]:
    values = facts("model.tokenizer_type", "model.vocab_name_or_path", "data.vocab_size")
    if not values:
        return
    kind, name, size = values
    if kind == "llama" and name is None:
        yield Problem("a llama tokenizer is loaded, not trained", "model.vocab_name_or_path", hint="name its folder or Hugging Face id")
    is_given = facts.found.given("data", "vocab_size")
    if kind == "byte" and is_given and size < BYTES:
        yield Problem(f"the byte tokenizer has {BYTES} tokens, more than {size}", "data.vocab_size", hint="leave it out")
    if kind == "bbpe" and name is None and size < BYTES:
        yield Problem(f"a byte-level vocabulary has at least {BYTES} tokens, found {size}", "data.vocab_size")


def _tokenizer(facts: Facts) -> Iterator[Problem]:
    """A tokenizer of the data file that is not the model's."""
    found = facts.found
    for key in ("tokenizer_type", "vocab_name_or_path"):
        values = facts(f"{DATA_FILE}.{key}", f"model.{key}", "model.vocab_name_or_path")
        if not values or not found.given(DATA_FILE, key) or values[0] == values[1]:
            continue
        if values[2] is not None and {values[0], values[1]} == {"gpt2", "bbpe"}:
            continue  # both load what the name says
        mine, theirs = found.shown(("model", key)), found.shown((DATA_FILE, key))
        message = f"{mine!r} is not the tokenizer of the data, {theirs!r} ({found.origin((DATA_FILE, key))})"
        yield Problem(message, f"model.{key}", hint="say it in one place")
