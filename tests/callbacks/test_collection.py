"""Callbacks as objects of a configuration: collections, recorded arguments, copies, imports."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ironloom.callbacks import (
    CallbackCollection,
    CallbackHandler,
    CheckpointCallback,
    JsonLogger,
    ProfileCallback,
    ProgressCallback,
    TextgenCallback,
    TrainerCallback,
)
from tiny import tiny_trainer


class Counting(TrainerCallback):
    def __init__(self, start: int = 0, *, name: str = ""):
        self.count, self.name = start, name

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.count += 1


def test_entries_that_are_none_are_left_out() -> None:
    one, two = Counting(), Counting()
    found = CallbackCollection([one, None, two, None])
    assert found == [one, two]
    found.append(None)
    found.insert(0, None)
    found.extend([None, one])
    found += [None]
    assert found == [one, two, one] and isinstance(found, CallbackCollection)
    longer = found + CallbackCollection([two])
    assert longer == [one, two, one, two] and isinstance(longer, CallbackCollection)


def test_filter_is_that_of_python() -> None:
    one, two = Counting(), JsonLogger()
    found = CallbackCollection([one, None, two])
    assert found.filter(None) == [one, two]
    assert found.filter(lambda callback: callback is two) == [two]
    assert isinstance(found.filter(None), CallbackCollection)


def test_two_of_one_class_both_listen(tmp_path: Path) -> None:
    collection = CallbackCollection([Counting(), None, Counting(10)])
    tiny_trainer(tmp_path, options={"callbacks": collection}, max_steps=3, save_strategy="no").train()
    assert [callback.count for callback in collection] == [3, 13]


def test_classes_are_entries_too() -> None:
    assert isinstance(CallbackHandler(CallbackCollection([ProgressCallback])).callbacks[0], ProgressCallback)


def test_what_is_no_callback_is_refused_all_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        CallbackCollection([Counting(), "tensorboard", None, 3])
    assert "callbacks.1" in str(caught.value) and "callbacks.3" in str(caught.value) and "callbacks.0" not in str(caught.value)


def test_arguments_are_recorded_as_they_were_written() -> None:
    assert Counting(3, name="x")._recorded == ((3,), {"name": "x"})
    assert JsonLogger(date="today")._recorded == ((), {"date": "today"})
    assert Counting()._recorded == ((), {})


def test_arguments_are_recorded_however_a_callback_is_written() -> None:
    @dataclasses.dataclass(frozen=True)
    class Frozen(TrainerCallback):
        size: int = 1

    class Child(Counting):
        def __init__(self) -> None:
            super().__init__(5)

    assert Frozen(size=2)._recorded == ((), {"size": 2})
    assert Child()._recorded == ((), {}) and Child().count == 5


def test_a_callback_without_constructor_still_refuses_arguments() -> None:
    class Empty(TrainerCallback):
        pass

    with pytest.raises(TypeError, match="Empty"):
        Empty(3)


@pytest.mark.parametrize("callback", [JsonLogger(name="x"), ProfileCallback(2, 3), TextgenCallback(None, ["a"], {"top_k": 2})])
def test_callbacks_can_be_pickled_and_copied(callback: Any) -> None:
    for again in (pickle.loads(pickle.dumps(callback)), copy.copy(callback), copy.deepcopy(callback)):
        assert type(again) is type(callback) and vars(again) == vars(callback)


def test_importing_callbacks_imports_nothing_heavy() -> None:
    code = """
import sys
import ironloom.callbacks
ironloom.callbacks.JsonLogger(), ironloom.callbacks.ProfileCallback(), ironloom.callbacks.TextgenCallback(prompts=["a"])
ironloom.callbacks.CheckpointCallback(monitor="val_loss", mode="min")
heavy = {"torch", "numpy", "transformers", "tensorboard", "wandb", "mlflow", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("tensorboard", 'TBLogger("runs")'),
        ("wandb", "LoggerCallback()"),
        ("mlflow", "MLflowLogger()"),
    ],
)
def test_a_missing_package_is_named_with_its_extra_at_construction(package: str, make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ironloom import callbacks

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf'pip install "ironloom\[{package}\]"'):
        eval(make, vars(callbacks))


@pytest.mark.parametrize("name", ["TBLogger", "JsonLogger", "LoggerCallback", "MLflowLogger", "TextgenCallback", "CheckpointCallback"])
def test_arguments_can_be_checked_without_importing(name: str) -> None:
    from ironloom import callbacks
    from ironloom.config.static import signature

    found = signature(f"ironloom.callbacks:{name}")
    parameters = list(inspect.signature(vars(callbacks)[name].__init__).parameters.values())[1:]
    assert found is not None
    named = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert list(found.positional) == named
    assert found.open == any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def test_the_seeds_collection_can_be_written() -> None:
    """As printed, but for ``[...].filter(None)``: Python's lists have no filter, a collection has."""
    debug = False
    found = CallbackCollection(
        [
            CheckpointCallback(monitor="val_loss", mode="min"),
            ProfileCallback() if debug else None,
        ]
    ).filter(None)
    assert [type(callback) for callback in found] == [CheckpointCallback]
