"""The same training through five programs. Each function trains and returns seconds per optimizer step.

Model, data, optimizer, schedule, clipping and batch order by index are the same for all; each
program otherwise runs as its documentation shows, with its own defaults for logging and progress.
The time is that of the steps after a warm-up, measured by the wall clock between two steps.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ironloom.models import Decoder, build_decoder
from ironloom.settings import ModelConfig


@dataclass(frozen=True)
class Setting:
    """A model and a length: what is trained in one comparison."""

    name: str
    layers: int
    width: int
    heads: int
    sequence: int
    batch: int
    vocabulary: int
    steps: int
    warm_up: int
    bf16: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch * self.sequence

    def model(self) -> nn.Module:
        """The model, with the same weights every time."""
        shape = ModelConfig(
            num_layers=self.layers,
            d_model=self.width,
            d_ffn=4 * self.width,
            num_attention_heads=self.heads,
            head_dim=self.width // self.heads,
            max_seq_len=self.sequence,
            dropout_embd=0.0,
            dropout_attn=0.0,
            dropout_mlp=0.0,
        )
        return ForTraining(build_decoder(shape, self.vocabulary, vocab_padding_unit=1, init_std=0.02))

    def data(self) -> list[dict[str, torch.Tensor]]:
        """Samples as every program takes them: input_ids and labels."""
        torch.manual_seed(0)
        ids = torch.randint(self.vocabulary, ((self.steps + self.warm_up) * self.batch, self.sequence))
        return [{"input_ids": row, "labels": row} for row in ids]


class ForTraining(nn.Module):
    """The decoder with the loss that the other programs expect a model to return."""

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.decoder(input_ids).logits
        if labels is None:
            return {"logits": logits}
        targets = F.pad(labels[:, 1:], (0, 1), value=-100)
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.reshape(-1))
        return {"loss": loss, "logits": logits}


class Clock:
    """Notes the time at the end of every step; the first ones are not counted."""

    def __init__(self, setting: Setting) -> None:
        self.times: list[float] = []
        self.warm_up = setting.warm_up

    def tick(self) -> None:
        self.times.append(time.perf_counter())

    def seconds_per_step(self) -> float:
        return (self.times[-1] - self.times[self.warm_up - 1]) / (len(self.times) - self.warm_up)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)


def schedule_of(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))


def bare(setting: Setting) -> float:
    """A loop as one writes it by hand."""
    model, clock = setting.model(), Clock(setting)
    optimizer = optimizer_of(model)
    schedule = schedule_of(optimizer, setting.steps + setting.warm_up)
    loader = DataLoader(setting.data(), batch_size=setting.batch, shuffle=True)  # type: ignore[arg-type]
    autocast = torch.autocast("cpu", torch.bfloat16) if setting.bf16 else contextlib.nullcontext()
    model.train()
    for batch in loader:
        with autocast:
            loss = model(**batch)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        clock.tick()
    return clock.seconds_per_step()


def ironloom(setting: Setting) -> float:
    from ironloom import Trainer, TrainerCallback

    clock = Clock(setting)

    class Tick(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        args = {
            "output_dir": folder,
            "per_device_train_batch_size": setting.batch,
            "learning_rate": 1e-3,
            "bf16": setting.bf16,
            "use_cpu": True,
            "save_strategy": "no",
        }
        Trainer(setting.model(), args, train_dataset=setting.data(), callbacks=[Tick]).train()
    return clock.seconds_per_step()


def ironloom_train(setting: Setting) -> float:
    """What ``ironloom train`` does with a grouped configuration: its default precision is bfloat16."""
    from ironloom import TrainerCallback, config

    clock = Clock(setting)

    class Tick(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.yaml")
        path.write_text(
            f"model: {{d_model: {setting.width}, d_ffn: {4 * setting.width}, num_layers: {setting.layers}, "
            f"num_attention_heads: {setting.heads}, head_dim: {setting.width // setting.heads}, max_seq_len: {setting.sequence}, "
            "dropout_embd: 0.0, dropout_attn: 0.0, dropout_mlp: 0.0, tokenizer_type: bbpe, vocab_name_or_path: null}\n"
            f"data: {{train_datasets: [python-stdlib], vocab_size: {setting.vocabulary}}}\ninit: {{init_std: 0.02}}\n"
            f"trainer: {{model_path: {folder}/out, micro_batch_size: {setting.batch}}}\n"
            f"operation: {{train_steps: {setting.steps + setting.warm_up}, no_save: true}}\n"
        )
        trainer = config.build(config.load(path))
        trainer.add_callback(Tick)
        trainer.train()
    return clock.seconds_per_step()


def transformers(setting: Setting) -> float:
    import transformers

    clock = Clock(setting)

    class Tick(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        args = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=setting.batch,
            num_train_epochs=1,
            learning_rate=1e-3,
            bf16=setting.bf16,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
        )
        trainer = transformers.Trainer(setting.model(), args, train_dataset=setting.data(), callbacks=[Tick])  # type: ignore[arg-type]
        trainer.train()
    return clock.seconds_per_step()


def accelerate(setting: Setting) -> float:
    from accelerate import Accelerator

    model, clock = setting.model(), Clock(setting)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16" if setting.bf16 else "no")
    optimizer = optimizer_of(model)
    schedule = schedule_of(optimizer, setting.steps + setting.warm_up)
    loader = DataLoader(setting.data(), batch_size=setting.batch, shuffle=True)  # type: ignore[arg-type]
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    model.train()
    for batch in loader:
        loss = model(**batch)["loss"]
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        clock.tick()
    return clock.seconds_per_step()


def lightning(setting: Setting) -> float:
    import lightning as L

    clock = Clock(setting)

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = setting.model()

        def training_step(self, batch: Any, index: int) -> Any:
            loss = self.model(**batch)["loss"]
            self.log("loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = optimizer_of(self.model)
            schedule = schedule_of(optimizer, setting.steps + setting.warm_up)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            gradient_clip_val=1.0,
            precision="bf16-mixed" if setting.bf16 else "32-true",
            default_root_dir=folder,
            enable_checkpointing=False,
        )
        trainer.fit(Module(), DataLoader(setting.data(), batch_size=setting.batch, shuffle=True))  # type: ignore[arg-type]
    return clock.seconds_per_step()


CONTESTANTS: dict[str, Callable[[Setting], float]] = {
    "bare PyTorch loop": bare,
    "Ironloom": ironloom,
    "accelerate": accelerate,
    "Lightning": lightning,
    "transformers.Trainer": transformers,
}


@contextlib.contextmanager
def silenced() -> Any:
    """Progress goes to a file that nobody reads, as on a terminal that nobody looks at."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(nowhere):
        yield
