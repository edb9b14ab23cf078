"""Optimizers against PyTorch's own where there is one, else against the formula of the paper; decay groups."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ironloom import optim
from ironloom.models import build_decoder
from ironloom.optim import NamedParameters
from ironloom.settings.model import ModelConfig
from optim.choices import HERE, OPTIMIZERS, SPREAD, give_gradients, net
from spread import gpt2, of_transformers
from tiny import assert_same_weights, tiny_lm, tiny_trainer, weights


def steps(make: Callable[[nn.Module], Any], count: int = 6) -> dict[str, torch.Tensor]:
    """The weights after some steps."""
    model = net()
    optimizer = make(model)
    for step in range(count):
        give_gradients(model, step)
        optimizer.step()
    return weights(model)


def grouped(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """The groups as they should be, written out."""
    none = [model.lexicon.weight, model.up.bias, model.norm.weight, model.norm.bias]
    return [
        {"params": [model.up.weight, model.down.weight, model.lm_head.weight], "weight_decay": decay},
        {"params": none, "weight_decay": 0.0},
    ]


THEIRS = {
    "adamw": lambda model: torch.optim.AdamW(grouped(model, 0.1), lr=0.01, betas=(0.9, 0.95), foreach=False),
    "adam_l2": lambda model: torch.optim.Adam(grouped(model, 0.1), lr=0.01, betas=(0.9, 0.95), foreach=False),
    "sgd": lambda model: torch.optim.SGD(grouped(model, 0.1), lr=0.1, momentum=0.9),
    "adafactor": lambda model: torch.optim.Adafactor(grouped(model, 0.1), lr=0.05),
}


@pytest.mark.parametrize("name", THEIRS)
def test_it_is_pytorchs(name: str) -> None:
    ours, theirs = steps(lambda model: OPTIMIZERS[name](NamedParameters(model))), steps(THEIRS[name])
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-7)


def test_muon_is_pytorchs_for_matrices_and_adamw_for_the_rest() -> None:
    def make(model: nn.Module) -> Any:
        class Both:
            parts = (
                torch.optim.Muon([model.up.weight, model.down.weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
                torch.optim.AdamW(
                    [
                        {"params": [model.lm_head.weight], "weight_decay": 0.1},
                        {"params": [model.lexicon.weight, model.up.bias, model.norm.weight, model.norm.bias], "weight_decay": 0.0},
                    ],
                    lr=0.01,
                    betas=(0.9, 0.95),
                ),
            )

            def step(self) -> None:
                for part in self.parts:
                    part.step()

        return Both()

    ours, theirs = steps(lambda model: OPTIMIZERS["muon"](NamedParameters(model))), steps(make)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-7)


def test_the_update_of_muon_is_nearly_orthogonal() -> None:
    """Singular values between 0.5 and 1.5 as the method promises, scaled to 0.2 * sqrt(larger side)."""
    model = nn.Linear(32, 48, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
    optim.muon(NamedParameters(model), lr=0.1, weight_decay=0.0).step()
    values = torch.linalg.svdvals((before - model.weight.detach()) / 0.1) / (0.2 * math.sqrt(48))
    assert values.min() > 0.5 and values.max() < 1.5


def test_lion_is_the_program_of_its_paper() -> None:
    model, reference = net(), net()
    optimizer = optim.lion(NamedParameters(model), lr=0.01, betas=(0.8, 0.9), weight_decay=0.3)
    decayed = {"up.weight", "down.weight", "lm_head.weight"}
    momentum = {name: torch.zeros_like(value) for name, value in reference.named_parameters()}
    for step in range(6):
        give_gradients(model, step)
        optimizer.step()
        give_gradients(reference, step)
        for name, value in reference.named_parameters():
            assert value.grad is not None
            update = torch.sign(0.8 * momentum[name] + 0.2 * value.grad)
            value.data = value.data - 0.01 * (update + (0.3 if name in decayed else 0.0) * value.data)
            momentum[name] = 0.9 * momentum[name] + 0.1 * value.grad
    for (name, one), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"betas": (0.9, 1.0)}, {"weight_decay": -0.1}])
def test_lion_refuses_what_is_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: is out of range"):
        optim.lion(NamedParameters(net()), **wrong)


def test_adam_has_decay_in_the_gradient_and_adamw_beside_it() -> None:
    """With a gradient of zero, AdamW shrinks by lr * decay; Adam makes a step of the full rate against the sign."""
    moved = {}
    for name, make in {"adam": optim.adam, "adamw": optim.adamw}.items():
        model = nn.Linear(2, 2, bias=False)
        nn.init.constant_(model.weight, 2.0)
        model.weight.grad = torch.zeros(2, 2)
        make(NamedParameters(model), lr=0.1, weight_decay=0.5).step()
        moved[name] = model.weight[0, 0].item()
    assert moved == pytest.approx({"adam": 2.0 - 0.1, "adamw": 2.0 * (1 - 0.1 * 0.5)}, rel=1e-4)


def decayed(model: nn.Module, make: Any, **options: Any) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = make(NamedParameters(model), weight_decay=0.3, **options)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(names), "each parameter is in one group"
    return {names[id(parameter)] for group in optimizer.param_groups if group["weight_decay"] == 0.3 for parameter in group["params"]}


@pytest.mark.parametrize("name", HERE)
def test_norms_biases_and_embeddings_take_no_decay(name: str) -> None:
    make = OPTIMIZERS[name].func
    matrices = {"up.weight", "down.weight", "lm_head.weight"}
    assert decayed(net(), make) == matrices
    assert decayed(net(), make, no_decay_on_embedding=False) == matrices | {"lexicon.weight"}


MODELS = {
    "decoder": lambda: build_decoder(ModelConfig(d_model=16, head_dim=4, d_ffn=32), 31),
    "decoder, untied": lambda: build_decoder(ModelConfig(d_model=16, head_dim=4, d_ffn=32, untie_embed=True), 31),
    "gpt2": gpt2,
    "llama": lambda: of_transformers("Llama"),
    "qwen2, tied": lambda: of_transformers("Qwen2", tie_word_embeddings=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_word_embedding_is_among_the_embeddings(name: str) -> None:
    """Of every family; what else is a matrix is decayed, and the output layer is, unless it is the embedding."""
    model = MODELS[name]()
    tables = {id(model.get_submodule(place).weight) for place, module in model.named_modules() if isinstance(module, nn.Embedding)}
    matrices = {key: value for key, value in model.named_parameters() if value.ndim == 2}
    expected = {key for key, value in matrices.items() if id(value) not in tables and "embed_positions" not in key}
    assert decayed(model, optim.adamw) == expected
    assert len(expected) >= 8
    # The same by names alone, as for parameters that come without their model.
    by_name = optim.adamw(model.named_parameters(), weight_decay=0.3)
    assert sum(len(group["params"]) for group in by_name.param_groups if group["weight_decay"] == 0.3) == len(expected)


@pytest.mark.parametrize("name", MODELS)
def test_muon_takes_the_matrices_of_the_layers(name: str) -> None:
    model = MODELS[name]()
    optimizer = optim.muon(NamedParameters(model))
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    taken = {names[id(parameter)] for group in optimizer.param_groups if "ns_steps" in group for parameter in group["params"]}
    assert taken == {key for key, value in model.named_parameters() if value.ndim == 2 and (".layers." in key or ".h." in key)}


def test_the_order_of_groups_is_that_of_the_model() -> None:
    """Not that of a set, which differs from process to process: what is gathered by number would be mixed up."""
    optimizer = optim.adamw(NamedParameters(net()))
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["up.weight", "down.weight", "lm_head.weight"],
        ["lexicon.weight", "up.bias", "norm.weight", "norm.bias"],
    ]


@pytest.mark.parametrize("name", HERE)
def test_it_learns(name: str) -> None:
    model = net()
    optimizer, rows = OPTIMIZERS[name](NamedParameters(model)), []
    for _ in range(60):
        rows.append(give_gradients(model, 0))
        optimizer.step()
    assert rows[-1] < 0.5 * rows[0]


@pytest.mark.parametrize("name", HERE)
def test_a_resumed_run_is_the_same_bit_for_bit(name: str, tmp_path: Path) -> None:
    def run(folder: str, max_steps: int, **args: Any) -> dict[str, torch.Tensor]:
        rising = {"warmup_steps": 3, "lr_scheduler_type": "constant_with_warmup", "learning_rate": 0.003}
        # Wide enough for blocks of eight bits.
        model = tiny_lm(dropout=0.2, width=80) if name == "adamw_8bit" else None
        options = {"optimizer_factory": OPTIMIZERS[name]}
        trainer = tiny_trainer(tmp_path / folder, model, options=options, max_steps=max_steps, **rising, **args)
        trainer.train()
        return weights(trainer.model)

    whole = run("whole", 7)
    run("parts", 4)
    shutil.copytree(tmp_path / "parts", tmp_path / "anew")
    assert_same_weights(whole, run("parts", 7, resume_from_checkpoint=True))
    anew = run("anew", 7, resume_from_checkpoint=True, restore_optimizer_state=False)
    assert [key for key, value in anew.items() if not torch.equal(value, whole[key])], "the state matters, so restoring it was tested"


def test_muon_takes_no_group_later() -> None:
    optimizer = OPTIMIZERS["muon"](NamedParameters(net()))
    with pytest.raises(ValueError, match="when it is made"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))]})


@pytest.mark.parametrize("name", SPREAD)
def test_a_closure_is_called_once(name: str) -> None:
    model = net()
    optimizer = OPTIMIZERS[name](NamedParameters(model))
    calls = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        give_gradients(model, 0)
        return 5.0

    assert optimizer.step(closure) == 5.0
    assert calls == [True]


def test_a_part_of_a_model_without_matrices_is_trained() -> None:
    """As a stage of a pipeline may be: its norms alone, or its embeddings."""
    model = nn.LayerNorm(3)
    before = weights(model)
    model.weight.grad, model.bias.grad = torch.ones(3), torch.ones(3)
    partial(optim.muon, lr=0.1)(NamedParameters(model)).step()
    assert not [key for key, value in weights(model).items() if torch.equal(value, before[key])]


def test_no_optimizer_imports_the_compiler_or_parts_of_tensors() -> None:
    """They would cost seconds at every start."""
    code = """
import sys
from optim.choices import OPTIMIZERS, SPREAD, give_gradients, net
from ironloom.optim import NamedParameters
for name in SPREAD:
    model = net()
    optimizer = OPTIMIZERS[name](NamedParameters(model))
    give_gradients(model, 0)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
print([name for name in ("torch._dynamo", "sympy", "torch.distributed.tensor", "transformers", "bitsandbytes") if name in sys.modules])
"""
    folder = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
