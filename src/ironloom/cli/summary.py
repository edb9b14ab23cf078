"""What ``ironloom train`` shows when a run is over: a table of results and a few generated lines."""

from __future__ import annotations

import functools
import math

import torch

from ironloom.data.mixture import Mixture
from ironloom.data.tokenizer import Tokenizer
from ironloom.models.decoder import Decoder
from ironloom.models.generate import generate
from ironloom.objectives import IGNORE_INDEX
from ironloom.trainer import PreferenceTrainer, Trainer, TrainOutput
from ironloom.trainer.evaluating import named

PROMPT_TOKENS = 8
NEW_TOKENS = 40
_ACCURACY = "eval_rewards/accuracies"


def show(trainer: Trainer, output: TrainOutput, test: dict[str, float] | None) -> None:
    """Print the table and the lines on standard output.

    Args:
        trainer: After training.
        output: What ``train`` returned.
        test: Metrics on the test set, if there is one.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Summary", show_header=False)
    for name, value in rows(trainer, output, test):
        table.add_row(name, value)
    console = Console()
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    if not output.metrics["train_steps_per_second"]:
        step, folder = trainer.state.global_step, trainer.args.output_dir
        say(f"{folder} is already at step {step}: no step was trained (--fresh begins anew)")
    console.print(table)
    for line in samples(trainer):
        say(line)


def rows(trainer: Trainer, output: TrainOutput, test: dict[str, float] | None) -> list[tuple[str, str]]:
    """Names and values of the table."""
    state, metrics = trainer.state, output.metrics
    found = [
        ("steps", f"{state.global_step:,} of {state.max_steps:,}"),
        ("epochs", f"{state.epoch:.2f}"),
        ("tokens", f"{state.num_input_tokens_seen:,}"),
        ("training loss", f"{output.training_loss:.4f} (mean over the run)"),
    ]
    found += _sources(trainer)
    losses = [record["eval_loss"] for record in state.log_history if "eval_loss" in record]
    if losses:
        found.append(("evaluation loss", f"{losses[0]:.4f} -> {losses[-1]:.4f}"))
        for name in trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else ():
            parts = [record[f"eval_{name}_loss"] for record in state.log_history if f"eval_{name}_loss" in record]
            found += [(f"- {name}", f"{parts[0]:.4f} -> {parts[-1]:.4f}")] if parts else []
        if isinstance(trainer, PreferenceTrainer):
            shares = [record[_ACCURACY] for record in state.log_history if _ACCURACY in record]
            found.append(("preferred rightly", f"{shares[-1]:.1%} of the evaluation pairs (by chance 50%)"))
        elif trainer.processing_class is not None:  # the loss is one of text
            found.append(("perplexity", f"{_perplexity(losses[0])} -> {_perplexity(losses[-1])}"))
    if test is not None:
        beside = f"preferred rightly: {test['test_rewards/accuracies']:.1%}" if isinstance(trainer, PreferenceTrainer) else None
        found.append(("test loss", f"{test['test_loss']:.4f} ({beside or 'perplexity ' + _perplexity(test['test_loss'])})"))
    if metrics["train_steps_per_second"]:
        found.append(("time", f"{metrics['train_runtime']:.1f} s"))
        found.append(("speed", f"{metrics['train_tokens_per_second']:,.0f} tokens/s"))
    if "peak_memory_mib" in metrics:
        found.append(("peak memory", f"{metrics['peak_memory_mib']:,.0f} MiB"))
    found.append(("model", str(trainer.args.output_dir)))
    return found


def _sources(trainer: Trainer) -> list[tuple[str, str]]:
    """What each source of a mixture has given, as the last record of training says."""
    if not isinstance(trainer.train_dataset, Mixture):
        return []
    record = next((record for record in reversed(trainer.state.log_history) if "learning_rate" in record), {})
    tokens = {name: record.get(f"tokens_{name}") for name in trainer.train_dataset.sources}
    total = sum(number or 0 for number in tokens.values())
    found = []
    for name, number in tokens.items():
        text = f"{record.get(f'samples_{name}', 0):,} samples"
        found.append((name, text if number is None else f"{text}, {number:,} tokens ({number / max(1, total):.1%})"))
    return found


def samples(trainer: Trainer, count: int = 3) -> list[str]:
    """Held-out beginnings and how the model goes on, one line each; none of a model that no process has the whole of."""
    degrees = trainer.team.place.degrees
    if degrees.product != degrees.dp_replicate:
        return []
    tokenizer, held_out = trainer.processing_class, trainer.eval_dataset or trainer.train_dataset
    sets = [data for _, data in named(held_out)]
    model = trainer.unwrapped_model()
    if not isinstance(tokenizer, Tokenizer) or not (isinstance(model, Decoder) or callable(getattr(model, "generate", None))):
        return []
    lines = []
    for index in range(count):
        dataset, place = sets[index % len(sets)], index // len(sets)
        if place >= len(dataset):
            continue
        prompt = _beginning(dataset[place]).to(trainer.device)
        written = generate(model, prompt[None], max_new_tokens=NEW_TOKENS, temperature=0.8, seed=index)
        begun, whole = (tokenizer.decode(ids.tolist(), skip_special_tokens=True) for ids in (prompt, written[0]))
        lines.append(f"{one_line(begun)} | {one_line(whole[len(begun) :])}")
    return lines


def _beginning(sample: dict[str, torch.Tensor]) -> torch.Tensor:
    """What a model is given of a sample: its first tokens, of a pair the whole of what both answers answer."""
    if "chosen_ids" not in sample:
        return sample["input_ids"][:PROMPT_TOKENS]
    return sample["chosen_ids"][: int((sample["chosen_labels"] != IGNORE_INDEX).nonzero()[0]) + 1]


def one_line(text: str) -> str:
    """The text without line breaks, and without control characters: an untrained model writes any bytes."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in " ".join(text.split()))


def _perplexity(loss: float) -> str:
    return f"{math.exp(loss):,.1f}" if loss < 20 else "inf"
