"""One line that says what a configuration amounts to: parameters, tokens per step, steps."""

from __future__ import annotations

from typing import Any

from ironloom.config.graph import Graph, Node, is_plain, walk
from ironloom.config.prepared import DATA
from ironloom.config.processes import data_parallel
from ironloom.settings.base import field_names
from ironloom.settings.dream.world import world_size
from ironloom.settings.model import ModelConfig, count_parameters
from ironloom.settings.training import TrainingArguments

_TRAINING = ("TrainingArguments", "PipelineTrainingArguments")


def summary(graph: Graph) -> str:
    """Size of the model, tokens of an optimizer step, steps; parts that the graph does not tell are left out."""
    parts = []
    shape = _arguments(graph, "ironloom.settings:ModelConfig")
    data = next((found for name in DATA if (found := _arguments(graph, name)) is not None), None)
    training = next((found for name in _TRAINING if (found := _arguments(graph, f"ironloom.settings:{name}")) is not None), None)
    if shape is not None and data is not None:
        size = _vocabulary(**{key: data[key] for key in ("tokenizer_type", "vocab_name_or_path", "vocab_size")})
        if size is not None:
            parts.append(f"{count_parameters(ModelConfig(**shape), size):,} parameters (vocabulary of {size:,})")
    if training is not None:
        known = field_names(TrainingArguments)
        args = TrainingArguments(**{name: value for name, value in training.items() if name in known})
        samples = args.per_device_train_batch_size * args.gradient_accumulation_steps * data_parallel(graph, world_size() or 1)
        if data is not None:
            parts.append(f"{samples * data['seq_length']:,} tokens per step")
        parts.append(f"{args.max_steps:,} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs")
    return ", ".join(parts)


def _vocabulary(tokenizer_type: str, vocab_name_or_path: str | None, vocab_size: int) -> int | None:
    """Size of the vocabulary if it is known without loading the tokenizer."""
    if tokenizer_type == "bbpe" and vocab_name_or_path is None:
        return vocab_size
    return {"byte": 257, "gpt2": 50257}.get("byte" if tokenizer_type == "byte" else vocab_name_or_path or tokenizer_type)


def _arguments(graph: Graph, target: str) -> dict[str, Any] | None:
    """The arguments of the first node with this target; None if there is none or they are not plain values."""
    nodes = (value for _, value in walk(graph.root) if isinstance(value, Node) and value.target == target)
    node = next(nodes, None)
    return node.kwargs if node is not None and is_plain(node.kwargs) else None
