"""The group optim: every optimizer and schedule by name, from the configuration to what trains; keys without an effect."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ironloom import config, optim
from ironloom.config import tagged
from ironloom.errors import ConfigError
from ironloom.optim import NamedParameters
from ironloom.settings.groups import GROUPS
from ironloom.settings.optim import OPTIMIZERS_WITH, SCHEDULES_WITH
from optim.choices import HERE, OPTIMIZERS, net

RUN = {"data": {"train_datasets": ["python-docs"]}, "operation": {"train_steps": 100}}
CLASSES: dict[str, Any] = {
    "adam": optim.AdamW,
    "adamw": optim.AdamW,
    "adam_l2": optim.Adam,
    "sgd": torch.optim.SGD,
    "adafactor": torch.optim.Adafactor,
    "lion": optim.Lion,
    "muon": optim.Muon,
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine": {},
    "linear": {},
    "constant": {},
    "polynomial": {},
    "inverse_sqrt": {},
    "warmup_stable_decay": {"annealing_steps": 10},
    "infinite": {"cooldown_steps": 5, "checkpoint_step": 50},
}
#: For every key a value that is not its default.
VALUES = {
    "adam_beta1": 0.8,
    "adam_beta2": 0.8,
    "adam_eps": 1e-6,
    "momentum": 0.5,
    "annealing_steps": 20,
    "min_lr": 2e-4,
    "lr_power": 2,
    "decay_type": "cosine",
    "cooldown_steps": 6,
    "constant_lr": 1e-5,
    "checkpoint_step": 60,
    "tau": 5,
}


def choices(key: str) -> list[str]:
    hints = GROUPS["optim"].__dataclass_fields__[key]
    import typing

    return list(typing.get_args(typing.get_type_hints(GROUPS["optim"])[hints.name]))


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def loaded(**keys: Any) -> Any:
        file = tmp_path / "run.yaml"
        file.write_text(json.dumps({**RUN, "optim": keys}))
        return config.load(file)

    return loaded


@pytest.fixture
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    find, found = importlib.util.find_spec, importlib.util.find_spec("json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: find(name, *rest) or found)


def problems(load: Any, **keys: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(**keys)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def test_the_tables_know_every_optimizer_and_schedule() -> None:
    assert set(choices("optimizer")) == {*OPTIMIZERS, "adam"}
    assert set(choices("lr_scheduler")) == set(SCHEDULES)
    assert set(OPTIMIZERS_WITH) | set(SCHEDULES_WITH) == set(VALUES)


@pytest.mark.usefixtures("everything_installed")
@pytest.mark.parametrize("name", choices("optimizer"))
def test_every_key_of_an_optimizer_changes_it_or_is_refused(name: str, load: Any) -> None:
    graph = load(optimizer=name)
    assert config.check(graph) == []
    for key, users in OPTIMIZERS_WITH.items():
        given = {"optimizer": name, key: VALUES[key]}
        if name in users:
            assert tagged.dump(load(**given)) != tagged.dump(graph), key
            assert config.check(load(**given)) == []
        else:
            assert problems(load, **given) == [f"optim.{key}: has no effect with {name}"]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_key_of_a_schedule_changes_its_rates_or_is_refused(name: str, load: Any) -> None:
    def rates(**keys: Any) -> list[float]:
        graph = load(lr_scheduler=name, warmup_steps=3, **{**SCHEDULES[name], **keys})
        assert config.check(graph) == []
        (factory,) = config.build([graph.root["lr_scheduler"]])
        schedule, found = factory(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-4)), []
        for _ in range(100):
            found.append(schedule.get_last_lr()[0])
            schedule.optimizer.step()
            schedule.step()
        return found

    usual = rates()
    assert max(usual) == pytest.approx(5e-4)
    for key, users in SCHEDULES_WITH.items():
        if name in users:
            assert rates(**{key: VALUES[key]}) != usual, key
        else:
            assert problems(load, lr_scheduler=name, **{**SCHEDULES[name], key: VALUES[key]}) == [f"optim.{key}: has no effect with {name}"]


@pytest.mark.parametrize("name", [name for name in HERE if name != "adamw_8bit"] + ["adam"])
def test_the_graph_builds_the_optimizer_with_its_numbers(name: str, load: Any) -> None:
    keys: dict[str, Any] = {"max_lr": 0.003, "weight_decay": 0.2, "no_decay_on_embedding": False}
    keys |= {key: VALUES[key] for key, users in OPTIMIZERS_WITH.items() if name in users}
    (factory,) = config.build([load(optimizer=name, **keys).root["optimizer"]])
    optimizer = factory(NamedParameters(net()))
    assert type(optimizer).__mro__[0] is CLASSES[name] or isinstance(optimizer, CLASSES[name])
    assert {group["lr"] for group in optimizer.param_groups} == {0.003}
    decays = {name: group["weight_decay"] for group in optimizer.param_groups for name in group["param_names"]}
    assert decays["lexicon.weight"] == decays["up.weight"] == 0.2
    assert decays["up.bias"] == decays["norm.weight"] == 0.0
    if "momentum" in keys:
        assert optimizer.param_groups[0]["momentum"] == 0.5
    if "adam_beta1" in keys:
        assert tuple(optimizer.param_groups[-1]["betas"]) == (0.8, 0.8)
    if "adam_eps" in keys:
        assert optimizer.param_groups[-1]["eps"] == 1e-6


def test_the_momentum_is_the_usual_one_of_each(load: Any) -> None:
    assert load(optimizer="sgd").root["optimizer"].kwargs["momentum"] == 0.9
    assert load(optimizer="muon").root["optimizer"].kwargs["momentum"] == 0.95
    assert load(optimizer="muon", momentum=0).root["optimizer"].kwargs["momentum"] == 0


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"lr_scheduler": "warmup_stable_decay"}, "annealing_steps: warmup_stable_decay falls at the end, over as many steps as this says"),
        (
            {"lr_scheduler": "warmup_stable_decay", "annealing_steps": 60, "warmup_steps": 50},
            "annealing_steps: the fall of 60 steps at the end is longer than what the warm-up leaves of operation.train_steps 100",
        ),
        ({"lr_scheduler": "infinite", "constant_lr": 1e-5}, "constant_lr: has no effect without cooldown_steps"),
        ({"lr_scheduler": "infinite", "tau": 5}, "tau: has no effect without checkpoint_step"),
        ({"lr_scheduler": "infinite", "min_lr": 1e-6}, "min_lr: has no effect without checkpoint_step"),
        ({"lr_scheduler": "infinite", "cooldown_steps": 5, "constant_lr": 1}, "constant_lr: 1.0 is more than max_lr 0.0005"),
        (
            {"lr_scheduler": "infinite", "cooldown_steps": 5, "warmup_steps": 3, "checkpoint_step": 7},
            "checkpoint_step: 7 is before the end of the cool-down at step 8",
        ),
    ],
)
def test_what_does_not_go_together(keys: dict[str, Any], expected: str, load: Any) -> None:
    assert problems(load, **keys) == [f"optim.{expected}"]


@pytest.mark.parametrize("spread", [{"parallel": {"use_fsdp": True}}, {"trainer": {"tensor_model_parallel_size": 2}}])
def test_eight_bits_refuse_weights_in_parts_before_anything_starts(spread: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({**RUN, **spread, "optim": {"optimizer": "adamw_8bit"}}))
    with pytest.raises(ConfigError, match=r"optim\.optimizer: 'adamw_8bit' scales blocks of whole weights"):
        config.load(file)


def test_eight_bits_without_their_package_are_refused_by_check(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name, *rest))
    (problem,) = config.check(load(optimizer="adamw_8bit"))
    assert "needs the package bitsandbytes" in problem.message
    assert problem.hint == 'pip install "ironloom[bitsandbytes]"'


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="it is installed")
def test_eight_bits_without_their_package_are_refused_in_python() -> None:
    with pytest.raises(ConfigError, match="needs the package bitsandbytes"):
        optim.adamw_8bit(NamedParameters(net()))
