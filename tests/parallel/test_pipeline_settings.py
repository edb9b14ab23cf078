"""A pipeline that cannot work is refused before a process starts, with a setting that works."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from ironloom.errors import ConfigError
from ironloom.settings.pipeline import SCHEDULES, PipelineTrainingArguments, pipeline_problems, schedule_name


def _problem(ranks: int, num_layers: int | None = None, **values: object) -> tuple[str, str, str]:
    args = PipelineTrainingArguments(**values)  # type: ignore[arg-type]
    (problem,) = pipeline_problems(args, ranks, num_layers)
    return problem.path, problem.message, problem.hint


def test_names_may_be_short_and_misspelt_ones_are_told() -> None:
    assert schedule_name("gpipe") == schedule_name("ScheduleGPipe") == "ScheduleGPipe"
    with pytest.raises(ConfigError, match="did you mean Schedule1F1B"):
        PipelineTrainingArguments(schedule_class="Schedule1F1")


def test_every_schedule_of_pytorch_is_known() -> None:
    from torch.distributed import pipelining

    names = {name for name in dir(pipelining) if name.startswith("Schedule")}
    assert names == set(SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_schedule_takes_what_it_says_and_nothing_less(name: str) -> None:
    rule = SCHEDULES[name]
    fitting = PipelineTrainingArguments(schedule_class=name, stages_per_rank=rule.least, pipeline_chunks=4)
    assert not list(pipeline_problems(fitting, 2))
    wrong = dataclasses.replace(PipelineTrainingArguments(), stages_per_rank=2 if rule.most == 1 else 1)
    with pytest.raises(ConfigError, match=f"set it to {rule.least}"):
        raise ConfigError(list(pipeline_problems(_with_schedule(wrong, name), 2)))


def _with_schedule(args: PipelineTrainingArguments, name: str) -> PipelineTrainingArguments:
    """As a factory of that class would be checked."""
    args.schedule_class = name
    return args


def test_chunks_are_refused_with_the_nearest_number_that_works() -> None:
    path, message, hint = _problem(4, schedule_class="1F1B", pipeline_chunks=3)
    assert path == "pipeline_chunks" and "at least 4" in message and hint == "set it to 4"
    options = {"schedule_class": "Interleaved1F1B", "stages_per_rank": 2}
    assert _problem(2, pipeline_chunks=5, **options)[2] == "set it to 6"
    assert not list(pipeline_problems(PipelineTrainingArguments(pipeline_chunks=6, **options), 2))


@pytest.mark.parametrize("name", SCHEDULES)
def test_pytorch_agrees_on_the_number_of_chunks(name: str) -> None:
    """The rule is PyTorch's: its own constructor refuses what is refused here, and takes the rest."""
    import torch
    from torch import distributed as dist
    from torch.distributed import pipelining

    rule, ranks = SCHEDULES[name], 2
    dist.init_process_group("fake", rank=0, world_size=ranks)
    try:
        stages = ranks * rule.least
        indices = [0, stages - 1] if rule.is_v else list(range(0, stages, ranks))
        parts = [pipelining.PipelineStage(torch.nn.Identity(), index, stages, torch.device("cpu")) for index in indices]
        for chunks in range(1, 10):
            try:
                getattr(pipelining, name)(parts if rule.least > 1 else parts[0], chunks, loss_fn=torch.sum)
            except ValueError:
                assert not rule.allows_chunks(chunks, ranks, stages), chunks
            else:
                assert rule.allows_chunks(chunks, ranks, stages), chunks
    finally:
        dist.destroy_process_group()


def test_a_batch_is_not_cut_into_more_chunks_than_it_has_samples() -> None:
    with pytest.raises(ConfigError, match="set it to 2"):
        PipelineTrainingArguments(per_device_train_batch_size=2, pipeline_chunks=4)


def test_stages_layers_and_cuts_must_fit() -> None:
    path, message, hint = _problem(8, num_layers=6)
    assert path == "pipeline_parallel_size" and "8 stages" in message and "at most 6 processes" in hint
    path, message, hint = _problem(2, split_spec={"layer.4": "end", "layer.8": "end"})
    assert path == "split_spec" and "3 stages" in message and "name 1 cuts" in hint
    with pytest.raises(ConfigError, match="split_spec"):
        PipelineTrainingArguments(split_spec={"layer.4": "middle"})  # type: ignore[dict-item]


def test_what_stages_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="use bf16"):
        PipelineTrainingArguments(fp16=True)


def test_what_one_process_imports_stays_light() -> None:
    heavy = "'torch._dynamo', 'sympy', 'torch.distributed.pipelining', 'torch.distributed.tensor'"
    code = f"import sys, ironloom.trainer.pipeline_trainer; print([name for name in ({heavy}) if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
    code = "import sys, ironloom.settings.pipeline; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "False"
