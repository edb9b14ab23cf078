"""A profile of a few steps: it is there, and training goes on as if it were not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ironloom import TrainerCallback
from ironloom.callbacks import NsightCallback, ProfileCallback
from tiny import assert_same_weights, tiny_trainer, weights


def run(folder: Path, *callbacks: Any, **args: Any) -> Any:
    trainer = tiny_trainer(folder, options={"callbacks": list(callbacks)}, save_strategy="no", **args)
    trainer.train()
    return trainer


def traces(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "logs" / "profile").glob("*"))


def test_a_window_is_traced_and_training_ends_normally(tmp_path: Path) -> None:
    quiet = run(tmp_path / "quiet")
    profiled = run(tmp_path / "profiled", ProfileCallback(2, 3, record_shapes=True, profile_memory=True, with_stack=True))
    assert profiled.state.global_step == 6
    assert_same_weights(weights(quiet.model), weights(profiled.model))
    assert traces(tmp_path / "profiled") == ["rank0-steps2-3.pt.trace.json", "rank0-steps2-3.txt"]
    trace = json.loads((tmp_path / "profiled/logs/profile/rank0-steps2-3.pt.trace.json").read_text(encoding="utf-8"))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert names.count("aten::gru") == 2, "a forward pass for each of two steps"
    assert "aten::gru" in (tmp_path / "profiled/logs/profile/rank0-steps2-3.txt").read_text(encoding="utf-8")


class Fail(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 4:
            raise OSError("the cable")


@pytest.mark.parametrize("ends", ["early", "failed", "other rank", "late", "folder"])
def test_however_the_run_ends(ends: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    if ends == "early":
        run(tmp_path, ProfileCallback(5, 60))
        assert traces(tmp_path) == ["rank0-steps5-6.pt.trace.json", "rank0-steps5-6.txt"]
    elif ends == "failed":
        with pytest.raises(OSError, match="the cable"):
            run(tmp_path, ProfileCallback(3, 60), Fail())
        assert traces(tmp_path) == ["rank0-steps3-4.pt.trace.json", "rank0-steps3-4.txt"]
    elif ends == "other rank":
        run(tmp_path, ProfileCallback(2, 3, ranks=[1]))
        assert traces(tmp_path) == []
    elif ends == "late":
        run(tmp_path, ProfileCallback(10, 12))
        assert traces(tmp_path) == [] and "no step is profiled" in caplog.text
    else:
        (tmp_path / "file").touch()
        assert run(tmp_path, ProfileCallback(2, 2, output_dir=tmp_path / "file")).state.global_step == 6
        assert "the profile could not be written" in caplog.text


def test_mistakes_are_named_together() -> None:
    with pytest.raises(ValueError) as caught:
        ProfileCallback(0, -1, ranks=[])
    assert all(name in str(caught.value) for name in ("step_start", "step_end", "ranks"))


def test_nsight_needs_a_device(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no CUDA device"):
        run(tmp_path, NsightCallback(2, 3), use_cpu=True)


def test_nsight_sees_whole_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls that Nsight Systems listens to, in their order; what they do needs a device."""
    import torch

    calls: list[str] = []

    class Ranges:
        def __enter__(self) -> None:
            calls.append("ranges on")

        def __exit__(self, *args: Any) -> None:
            calls.append("ranges off")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.profiler, "start", lambda: calls.append("start"))
    monkeypatch.setattr(torch.cuda.profiler, "stop", lambda: calls.append("stop"))
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", calls.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: calls.append("pop"))
    monkeypatch.setattr(torch.autograd.profiler, "emit_nvtx", Ranges)
    assert run(tmp_path, NsightCallback(2, 3)).state.global_step == 6
    assert calls == ["start", "ranges on", "step 2", "pop", "step 3", "pop", "ranges off", "stop"]
