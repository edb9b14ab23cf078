"""Stages are the model: the same logits, the same gradients, only what each needs, wherever it is cut."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from torch import nn

from ironloom.errors import ConfigError
from ironloom.objectives import logits_of
from ironloom.parallel.pipeline.balance import balanced
from ironloom.parallel.pipeline.split import keep_stages, plan_stages
from ironloom.parallel.pipeline.stage import StageModule, StagePlan
from parallel.pipelines import KINDS, padded, small_model, texts


def _inputs(count: int = 4) -> dict[str, torch.Tensor]:
    batch = padded(texts(count))
    del batch["labels"]
    return batch


def _run(stages: list[StageModule], inputs: dict[str, Any]) -> torch.Tensor:
    hidden: tuple[torch.Tensor, ...] = ()
    for stage in stages:
        hidden = (stage(*hidden, **inputs),)
    return hidden[0]


def _cuts(plans: list[StagePlan]) -> list[tuple[str, str]]:
    return [(plan.exit.path, plan.exit.side) for plan in plans if plan.exit is not None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_stages", [1, 2, 4])
def test_stages_with_only_their_own_weights_compute_the_model(kind: str, num_stages: int) -> None:
    inputs = _inputs()
    model = small_model(kind)
    logits = logits_of(model(**inputs))
    logits.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    plans = plan_stages(small_model(kind), inputs, num_stages)
    stages = []
    for plan in plans:
        part = small_model(kind)
        keep_stages(part, [plan])
        stages.append(StageModule(part, plan))
    assert torch.allclose(_run(stages, inputs), logits, rtol=1e-5, atol=1e-6)
    _run(stages, inputs).square().sum().backward()
    for name, expected in gradients.items():
        parts = [dict(stage.named_parameters())[name].grad for stage in stages if name in dict(stage.named_parameters())]
        found = sum(part for part in parts if part is not None)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()) + 1e-6), name


@pytest.mark.parametrize(
    ("kind", "shared"), [("tied", {"model.embed_tokens.weight"}), ("gpt2", {"transformer.wte.weight"}), ("untied", set())]
)
def test_only_a_tied_embedding_is_in_two_stages(kind: str, shared: set[str]) -> None:
    model = small_model(kind)
    names = {name for name, _ in model.named_parameters()}
    first, last = (set(plan.parameters) for plan in plan_stages(model, _inputs(), 2))
    assert first & last == shared
    assert first | last == names


def test_names_of_weights_are_those_of_the_whole_model() -> None:
    model = small_model("llama_tied")
    whole = model.state_dict().keys()
    plans = plan_stages(model, _inputs(), 2)
    keep_stages(model, plans[1:])
    assert model.state_dict().keys() < whole
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= model.state_dict().keys()
    assert model.model.embed_tokens.weight is model.lm_head.weight
    assert "model.layers.0.mlp.up_proj.weight" not in model.state_dict()


def test_beginning_and_end_are_two_names_of_a_place_and_their_order_is_the_model_s() -> None:
    inputs = _inputs()
    model = small_model("untied")
    end = plan_stages(model, inputs, 3, {"model.layers.3": "end", "model.layers.0": "end"})
    beginning = plan_stages(model, inputs, 3, {"model.layers.1": "beginning", "model.layers.4": "beginning"})
    assert [plan.parameters for plan in end] == [plan.parameters for plan in beginning]
    assert _cuts(end) == [("model.layers.0", "end"), ("model.layers.3", "end")]


def test_the_head_and_the_embedding_can_be_stages_of_their_own() -> None:
    plans = plan_stages(small_model("untied"), _inputs(), 3, {"model.embed_tokens": "end", "model.norm": "beginning"})
    assert plans[0].parameters == ("model.embed_tokens.weight",)
    assert set(plans[2].parameters) == {"model.norm.weight", "model.norm.bias", "lm_head.weight"}


def test_any_module_can_be_cut_that_passes_one_tensor_on() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Embedding(31, 8), nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 31))

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.body(input_ids)

    inputs = {"input_ids": _inputs()["input_ids"]}
    model = Net()
    plans = plan_stages(model, inputs, 2, {"body.1": "end"})
    assert plans[1].entry.shape.dims == ("rows", "length", 12)
    assert torch.equal(_run([StageModule(model, plan) for plan in plans], inputs), model(**inputs))


def test_a_stage_runs_no_layer_of_another() -> None:
    model = small_model("llama")
    plans = plan_stages(model, _inputs(), 2)
    calls: list[str] = []
    for name, module in model.model.layers.named_children():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    stages = [StageModule(model, plan) for plan in plans]
    hidden = stages[0](**_inputs())
    assert calls == ["0", "1"]
    stages[1](hidden, **_inputs())
    assert calls == ["0", "1", "2", "3"]


def test_layers_that_are_computed_again_are_run_twice_and_give_the_same_gradients() -> None:
    inputs = _inputs()
    model = small_model("untied")
    (plan,) = plan_stages(model, inputs, 1)
    gradients = []
    for recompute in (False, True):
        calls: list[int] = []
        handle = model.model.layers[2].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        model.zero_grad()
        StageModule(model, plan, recompute)(**inputs).square().sum().backward()
        handle.remove()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
        assert len(calls) == 1 + recompute
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_frozen_weights_find_their_stage_too() -> None:
    model = small_model("untied")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.4" in name)
    plans = plan_stages(model, _inputs(), 2)
    assert sum(len(plan.parameters) for plan in plans) == len(list(model.parameters()))
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == [
        name for name, _ in model.named_parameters() if "layers.4" in name
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"model.layer.1": "end"}, "did you mean model.layers.1"),
        ({"model.layers.1": "middle"}, "not at 'middle'"),
        ({"model.layers.1.self_attn": "end"}, "cut between whole layers"),
        ({"model.embed_tokens": "beginning"}, "takes no tensor"),
        ({"model.rotary": "end"}, "no tensor that could be sent"),
        ({"model.layers.0": "end", "model.layers.1": "end"}, "2 cuts make 3 stages, not 2"),
    ],
)
def test_places_where_a_model_cannot_be_cut_are_named(spec: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_stages(small_model("tied"), _inputs(), 2, spec)


def test_two_cuts_at_one_place_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing lies between"):
        plan_stages(small_model("tied"), _inputs(), 3, {"model.layers.0": "end", "model.layers.1": "beginning"})


def test_more_stages_than_layers_are_refused_with_the_most_that_work() -> None:
    with pytest.raises(ConfigError, match=r"6 stages .* 5 layers .*at most 5"):
        plan_stages(small_model("tied"), _inputs(), 6)


def test_work_is_divided_as_evenly_as_it_can_be() -> None:
    draw = random.Random(0)
    for _ in range(200):
        costs = [draw.randint(1, 20) for _ in range(draw.randint(1, 9))]
        parts = draw.randint(1, len(costs))
        cuts = balanced(costs, parts)

        def worst(cuts: tuple[int, ...], costs: list[int] = costs) -> int:
            return max(sum(costs[begin:end]) for begin, end in itertools.pairwise((0, *cuts, len(costs))))

        assert len(cuts) == parts - 1 and list(cuts) == sorted(set(cuts)) and 0 not in cuts
        assert worst(tuple(cuts)) == min(worst(other) for other in itertools.combinations(range(1, len(costs)), parts - 1))


def test_the_head_counts_as_work() -> None:
    """With a large vocabulary the last stage gets fewer layers."""
    model = small_model("untied")
    small = [len(plan.layers) for plan in plan_stages(model, _inputs(), 2)]
    model.lm_head = nn.Linear(32, 2000, bias=False)
    model.padded_vocab_size = model.vocab_size = 2000
    assert [len(plan.layers) for plan in plan_stages(model, _inputs(), 2)] == [4, 1] != small
