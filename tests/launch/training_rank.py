"""A rank that really trains: KIND RANK STEP LIMIT MODE FOLDER; MODE is data, fsdp or pipeline; at that step that rank has that fault."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ironloom import TrainerCallback
from ironloom.cli.worker import Worker
from ironloom.errors import IronloomError
from ironloom.settings.dream.device import DeviceParameters
from ironloom.trainer.loop import TrainLoop
from parallel.pipelines import pipeline_trainer, texts
from tiny import tiny_lm, tiny_trainer, uneven_samples

KIND, CULPRIT, AT, LIMIT, MODE, FOLDER = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5], Path(sys.argv[6])
RANK = int(os.environ["RANK"])


class Samples:
    """Data that raise, or never come, once this is armed."""

    armed = False

    def __init__(self, samples: list[Any]):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        if self.armed and KIND == "exception":
            happened()
            raise KeyError("no such sample")  # fault: exception
        if self.armed and KIND == "loader":
            happened()
            time.sleep(1000)  # fault: loader
        return self.samples[index]


class Fault(TrainerCallback):
    """Strikes in a step of the culprit."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        Samples.armed = state.global_step == AT - 1

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step != AT - 1:
            return
        if KIND in ("stop", "kill"):
            happened()
            os.kill(os.getpid(), signal.SIGSTOP if KIND == "stop" else signal.SIGKILL)  # fault: stop kill
        if KIND == "order":
            happened()
            dist.barrier()  # fault: order


def happened() -> None:
    (FOLDER / "fault").write_text(str(time.time()))


def skip(whole: Any) -> Any:
    """The loop's step, but for one that is only counted."""

    def step(loop: Any, window: Any) -> None:
        if loop.trainer.state.global_step == AT - 1:
            happened()
            loop.trainer.state.global_step += 1
        else:
            whole(loop, window)

    return step


def make() -> Any:
    args = {"max_steps": 2000, "save_strategy": "no", "logging_steps": 10, "eval_strategy": "no", "use_cpu": True}
    folder = FOLDER / "run"
    if MODE == "pipeline":
        trainer = pipeline_trainer("tied", str(folder), "Schedule1F1B", **args)
        trainer.train_dataset = Samples(texts(64))
        return trainer
    parameters = DeviceParameters(
        param_dtype="float32", **({"dp_replicate": 1, "dp_shard": "auto"} if MODE == "fsdp" else {"dp_replicate": "auto"})
    )
    return tiny_trainer(folder, tiny_lm(), Samples(uneven_samples(64)), options={"device_parameters": parameters}, **args)


worker = Worker(os.environ)
try:
    with worker.watched(LIMIT) as watch:
        trainer = make()
        if RANK == CULPRIT:
            trainer.add_callback(Fault())
            if KIND == "skip":
                TrainLoop._step = skip(TrainLoop._step)  # type: ignore[method-assign]
        trainer.phase = watch.phase
        trainer.train()
except IronloomError as error:
    sys.exit(error.exit_code)
