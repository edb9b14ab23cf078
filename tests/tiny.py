"""Small models and data that many tests train on."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

VOCABULARY = 31


class TinyLM(nn.Module):
    """A causal language model small enough to train in a millisecond, with dropout."""

    def __init__(self, width: int = 16, dropout: float = 0.0):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.mix = nn.GRU(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        hidden, _ = self.mix(self.embed(input_ids))
        return {"logits": self.head(self.dropout(self.norm(hidden)))}


def tiny_lm(seed: int = 0, **options: Any) -> TinyLM:
    """A model whose weights depend on the seed only; the global generators are left as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyLM(**options)


def uneven_samples(count: int = 24, length: int = 12, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Samples with very different numbers of targets, from one to all."""
    draw = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        ids = torch.from_numpy(draw.integers(0, VOCABULARY, length))
        labels = ids.clone()
        labels[: int(draw.integers(0, length - 1))] = -100
        samples.append({"input_ids": ids, "labels": labels})
    return samples


class RandomSamples:
    """Map-style data that draws from all three global generators whenever a sample is read."""

    def __init__(self, count: int = 24, length: int = 12):
        self.samples = uneven_samples(count, length)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = {key: value.clone() for key, value in self.samples[index].items()}
        place = random.randrange(len(sample["input_ids"]))
        sample["input_ids"][place] = int(np.random.randint(VOCABULARY))
        sample["input_ids"][-1 - place] = int(torch.randint(VOCABULARY, ()))
        return sample


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"different weights: {different}"


def losses(history: list[dict[str, float]]) -> list[tuple[float, float]]:
    """(step, loss) of every log record of training, in order."""
    return [(record["step"], record["loss"]) for record in history if "loss" in record]


def tiny_trainer(
    folder: Path,
    model: Any = None,
    train: Any = None,
    evaluation: Any = None,
    cls: Any = None,
    options: dict[str, Any] | None = None,
    **args: Any,
) -> Any:
    """A trainer that logs each step and saves what an exact resume needs; ``options`` are those of its constructor."""
    from ironloom import Trainer

    values = {
        "output_dir": folder,
        "disable_tqdm": True,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 4,
        "max_steps": 6,
        "logging_steps": 1,
        "save_steps": 2,
        "learning_rate": 0.01,
        "save_optimizer_state": True,
        "save_scheduler_state": True,
        **args,
    }
    return (cls or Trainer)(
        tiny_lm(dropout=0.2) if model is None else model,
        values,
        train_dataset=uneven_samples(16) if train is None else train,
        eval_dataset=uneven_samples(6, seed=1) if evaluation is None else evaluation,
        **(options or {}),
    )


def records(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Log records without what depends on the clock; texts stand for numbers that are not finite."""
    timeless = [record for record in history if "train_runtime" not in record]
    return [{key: value for key, value in record.items() if not key.endswith(("runtime", "per_second"))} for record in timeless]


class Child:
    """A function in a forked process, with the lines that it tells through its first argument.

    The process starts at once because everything is imported already; PyTorch has one thread, so that is safe.
    """

    def __init__(self, function: Callable[..., None], *arguments: Any):
        context = multiprocessing.get_context("fork")
        self._pipe, send = context.Pipe(duplex=False)
        self.process = context.Process(target=_in_child, args=(function, send, *arguments))
        self.process.start()
        send.close()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def lines(self) -> Iterator[str]:
        """What it tells, until it ends. Its own workers may hold the pipe open for some seconds more."""
        while True:
            while not self._pipe.poll(0.01):
                if self.process.exitcode is not None and not self._pipe.poll():
                    return
            try:
                yield self._pipe.recv()
            except EOFError:
                return

    def end(self) -> tuple[list[str], int]:
        """The rest of the lines, and the exit code."""
        rest = list(self.lines())
        self.process.join(60)
        assert self.process.exitcode is not None, "still running after a minute"
        return rest, self.process.exitcode

    def kill(self, signum: int) -> None:
        """Send a signal."""
        os.kill(self.pid, signum)


def _in_child(function: Callable[..., None], pipe: Any, *arguments: Any) -> None:
    torch.set_num_threads(1)
    function(pipe.send, *arguments)
