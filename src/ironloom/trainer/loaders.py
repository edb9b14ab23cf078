"""From a data set and the arguments to the loader that the loop reads."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ironloom.data.collate import ColumnFilter, PadCollator, default_collate, keep_columns
from ironloom.data.loader import make_loader
from ironloom.objectives.weighted import LOSS_WEIGHTS
from ironloom.settings.training import TrainingArguments

#: Columns that are labels or their weights, whatever the model's forward is called with.
LABEL_COLUMNS = ("label", "label_ids", "labels", "shift_labels", LOSS_WEIGHTS)


def build_loader(
    dataset: Any,
    args: TrainingArguments,
    model: nn.Module,
    collate: Callable[[list[Any]], Any] | None,
    processing_class: Any,
    device: torch.device,
    training: bool,
    rank: int = 0,
    size: int = 1,
) -> Any:
    """The loader of a data set.

    Args:
        dataset: Map-style or iterable.
        args: Batch sizes, workers, seeds.
        model: Its forward tells which columns are used.
        collate: Makes a batch of a list of samples; None: pads with ``processing_class`` if it can, else stacks.
        processing_class: Tokenizer or None.
        device: Pinned memory is used for accelerators only.
        training: Whether to shuffle and to drop the last batch as asked.
        rank: This process among those that read different samples.
        size: Their number.
    """
    if collate is None:
        collate = PadCollator(processing_class) if callable(getattr(processing_class, "pad", None)) else default_collate
    columns = used_columns(model, args)
    if columns is not None:
        dataset, collate = keep_columns(dataset, columns), ColumnFilter(collate, columns)
    return make_loader(
        dataset,
        batch_size=args.per_device_train_batch_size if training else args.per_device_eval_batch_size,
        collate=collate,
        seed=args.seed if args.data_seed is None else args.data_seed,
        shuffle=training,
        drop_last=training and args.dataloader_drop_last,
        num_workers=args.dataloader_num_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        persistent_workers=args.dataloader_persistent_workers,
        rank=rank,
        size=size,
        pin_memory=args.dataloader_pin_memory and device.type != "cpu",
    )


def used_columns(model: nn.Module, args: TrainingArguments) -> list[str] | None:
    """Columns that a batch may have, or None for all: the parameters of the model's forward and labels."""
    if not args.remove_unused_columns:
        return None
    forward = inspect.signature(innermost(model).forward).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in forward.values())
    named = [name for name, parameter in forward.items() if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)]
    if not named or (open_ended and getattr(model, "config", None) is None):
        return None
    return [*named, *LABEL_COLUMNS, *(args.label_names or ())]


def innermost(model: nn.Module) -> nn.Module:
    """The model inside an adapter: its forward is the one that names the columns."""
    get_base_model = getattr(model, "get_base_model", None)
    return get_base_model() if callable(get_base_model) else model
