"""Whole models over a context parallel group equal themselves in one process: logits, loss, the gradients of all weights."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from ironloom.errors import ConfigError, DataError
from ironloom.models.build import build_decoder
from ironloom.models.documents import heed_positions
from ironloom.objectives import CrossEntropy
from ironloom.parallel.context_apply import FAMILIES, ContextParallel, apply_context
from ironloom.settings.model import ModelConfig, PositionalEmbedding
from spawned import run

VOCABULARY, LENGTH = 61, 32
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
OBJECTIVE = CrossEntropy()


def decoder(position: str = "rope", **settings: Any) -> nn.Module:
    shape = {"d_model": 32, "d_ffn": 48, "num_layers": 2, "num_attention_heads": 4, "head_dim": 8, "max_seq_len": 64}
    quiet = {"dropout_embd": 0.0, "dropout_attn": 0.0, "dropout_mlp": 0.0, "positional_embedding": PositionalEmbedding(type=position)}
    return build_decoder(ModelConfig(**{**shape, **quiet, **settings}), VOCABULARY, init_std=0.1)


def family(name: str, **settings: Any) -> Any:
    import transformers

    torch.manual_seed(7)
    if name == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64}
        config = transformers.GPT2Config(**{**shape, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **settings})
    else:
        own = {"num_key_value_heads": 2, "initializer_range": 0.1, "head_dim": 8, "max_position_embeddings": 64}
        config = transformers.AutoConfig.for_model(name, **SIZES, **own, **settings)
    return transformers.AutoModelForCausalLM.from_config(config)


def batch_of(kind: str, size: int = 2) -> dict[str, torch.Tensor]:
    """Uneven targets, and the kinds of padding and positions."""
    draw = torch.Generator().manual_seed(5)
    ids = torch.randint(0, VOCABULARY, (size, LENGTH), generator=draw)
    labels = ids.clone()
    labels[0, :19] = -100
    batch = {"input_ids": ids, "labels": labels}
    if kind in ("left", "right"):
        padding = torch.ones(size, LENGTH, dtype=torch.long)
        padding[1, slice(0, 9) if kind == "left" else slice(LENGTH - 9, LENGTH)] = 0
        batch["attention_mask"] = padding
        labels[1, padding[1] == 0] = -100
    elif kind == "all ones":
        batch["attention_mask"] = torch.ones(size, LENGTH, dtype=torch.long)
    elif kind == "packed":
        batch["position_ids"] = torch.cat((torch.arange(13), torch.arange(LENGTH - 13))).expand(size, -1)
    elif kind == "packed, positions run on":
        documents = (torch.arange(LENGTH) >= 13).long()
        batch["attention_mask"] = (documents[:, None] == documents).tril().expand(size, 1, -1, -1)
    elif kind == "positions start again, not apart":
        batch["position_ids"] = torch.cat((torch.arange(13), torch.arange(LENGTH - 13))).expand(size, -1)
        batch["attention_mask"] = torch.ones(size, LENGTH, dtype=torch.long)
    return batch


def step(model: nn.Module, batch: dict[str, torch.Tensor], total: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward and backward; the loss sum and the logits."""
    loss, outputs = OBJECTIVE(model, batch, total)
    if outputs.logits.dtype is torch.float64:  # the objective is in float32
        targets = batch["shift_labels"] if "shift_labels" in batch else nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)
        loss = nn.functional.cross_entropy(outputs.logits.flatten(0, 1), targets.flatten(), reduction="sum")
    (loss / total).backward()
    return loss.detach(), outputs.logits.detach()


def gradients(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.grad.numpy() for name, value in model.named_parameters() if value.grad is not None}


def in_one_process(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    loss, logits = step(model, batch, OBJECTIVE.weight(batch))
    return {"loss": loss.numpy(), "logits": logits.numpy(), **gradients(model)}


def together(models: list[nn.Module], batches: list[dict[str, torch.Tensor]], order: Any) -> list[list[dict[str, np.ndarray]]]:
    """For each model one step for each batch, in the processes of a group; gradients of all weights are summed over it."""
    dist.init_process_group("gloo")
    results = []
    for model in models:
        context = apply_context(model, dist.group.WORLD, order)
        results.append([one_step(context, batch) for batch in batches])
    dist.destroy_process_group()
    return results


def one_step(context: ContextParallel, batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    model = context.model
    model.zero_grad()
    with context.running():
        loss, logits = step(model, context.split(batch, OBJECTIVE), OBJECTIVE.weight(batch))
    assert logits.shape[1] == LENGTH // context.layout.size
    for tensor in (loss, *(value.grad for value in model.parameters() if value.grad is not None)):
        dist.all_reduce(tensor)
    return {"loss": loss.numpy(), "logits": context.join(logits).numpy(), **gradients(model)}


def compare(model: nn.Module, kinds: list[str], size: int, order: str) -> None:
    """Errors are relative to the norm of a tensor; those of a gradient that is next to nothing (a bias of keys changes
    nothing in a softmax) to that of the largest one. In float64 rounding cannot hide anything."""
    batches = [batch_of(kind) for kind in kinds]
    models = [model, copy.deepcopy(model).double()]
    for results in run(together, size, models, batches, order):
        for own, limit, steps in zip(models, (2e-6, 1e-14), results, strict=True):
            for kind, batch, shared in zip(kinds, batches, steps, strict=True):
                own.zero_grad()
                expected = in_one_process(own, batch)
                assert shared.keys() == expected.keys()
                norms = {name: np.linalg.norm(value) for name, value in expected.items()}
                least = max(norm for name, norm in norms.items() if name not in ("loss", "logits")) / 100
                for name, value in expected.items():
                    error = np.linalg.norm(shared[name] - value) / max(norms[name], least)
                    assert error < limit, f"{value.dtype} {name} of a batch with {kind} padding is off by {error:.1e}"


DECODERS = {
    "rope, grouped": {"num_attention_groups": 2, "ln_type": "rmsnorm", "activation_type": "swiglu", "no_bias": True},
    "learned positions, tied, biases": {"position": "absolute"},
    "norms after, own output": {"position": "absolute", "post_ln": True, "untie_embed": True},
    "no positions": {"position": "none", "num_attention_groups": 1},
    "sliding window of a layer, normalised heads": {
        "sliding_window": 7,
        "sliding_window_layers": [1],
        "qk_norm": True,
        "embedding_scale": 3.0,
    },
}


KINDS = ["no", "left", "right", "all ones", "packed", "positions start again, not apart"]


@pytest.mark.parametrize("name", DECODERS)
def test_the_built_in_decoder(name):
    compare(decoder(**DECODERS[name]), [*KINDS, "packed, positions run on"], 2, "zigzag")


@pytest.mark.parametrize("name", FAMILIES)
def test_models_of_transformers(name):
    compare(family(name, use_cache=False), KINDS, 2, "zigzag")


@pytest.mark.parametrize("name, order", [("decoder", "zigzag"), ("gpt2", "contiguous")])
def test_four_processes(name, order):
    compare(decoder(num_attention_groups=2) if name == "decoder" else family(name, use_cache=False), ["no", "left", "packed"], 4, order)


@pytest.mark.slow
@pytest.mark.parametrize("size, order", [(2, "contiguous"), (4, "zigzag"), (4, "contiguous")])
@pytest.mark.parametrize("name", [*DECODERS, *FAMILIES])
def test_every_model_in_every_order(name, size, order):
    compare(decoder(**DECODERS[name]) if name in DECODERS else family(name, use_cache=False), KINDS, size, order)


def test_a_sliding_window_reaches_over_the_ends_of_chunks():
    compare(family("mistral", sliding_window=7, use_cache=False), KINDS, 2, "zigzag")
    mixed = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "use_cache": False}
    model = family("qwen2", **mixed)
    assert set(model.config.layer_types) == {"full_attention", "sliding_attention"}
    compare(model, KINDS, 2, "contiguous")


def test_scores_scaled_by_layer_and_a_cache_change_nothing():
    model = family("gpt2", scale_attn_by_inverse_layer_idx=True, use_cache=True)
    heed_positions(model)
    compare(model, ["no", "packed"], 2, "zigzag")


def test_activation_checkpointing_attends_over_the_group_again():
    model, again = decoder(), decoder()
    calls = []
    for layer in again.model.layers:  # type: ignore[union-attr]
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(0))
    expected = in_one_process(model, batch_of("left"))

    def twice() -> tuple[int, Any]:
        results = together([again], [batch_of("left")], "zigzag")[0][0]
        return len(calls), results

    for count, results in run(twice, 2):
        assert count == 4, "each of two layers ran forward and again before its backward"
        for name, value in expected.items():
            np.testing.assert_allclose(results[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def _trained(model: nn.Module, data: int, context_size: int, steps: int) -> list[tuple[float, float]]:
    """Losses and gradient norms of AdamW, accumulation 2; each data rank reads its own rows of the same global batches."""
    world = data * context_size
    if world > 1:
        from ironloom.parallel.mesh import Degrees, Place, make_mesh

        dist.init_process_group("gloo")
        degrees = Degrees(dp_replicate=data, cp=context_size)
        place = Place(dist.get_rank(), world, degrees, make_mesh(degrees, "cpu"))
        context = apply_context(model, place.group("cp"))
        everyone = place.group("dp_replicate", "cp")
        data_rank = place.data_rank
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    draw, history = torch.Generator().manual_seed(11), []
    for _ in range(steps):
        batches = []
        for _ in range(2):
            ids = torch.randint(0, 8, (4, LENGTH), generator=draw)  # of 61 tokens, so that there is something to learn
            mask = torch.rand(ids.shape, generator=draw) < torch.rand(4, 1, generator=draw)
            batches.append({"input_ids": ids, "labels": ids.masked_fill(mask, -100)})
        total, sums = sum(map(OBJECTIVE.weight, batches)), torch.zeros(())
        for batch in batches:
            if world == 1:
                sums += step(model, batch, total)[0]
                continue
            rows = slice(data_rank * 4 // data, (data_rank + 1) * 4 // data)
            with context.running():
                part = context.split({key: value[rows] for key, value in batch.items()}, OBJECTIVE)
                sums += step(model, part, total)[0]
        if world > 1:
            for tensor in (sums, *(value.grad for value in model.parameters())):
                dist.all_reduce(tensor, group=everyone)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        history.append((float(sums) / total, float(norm)))
    if world > 1:
        dist.destroy_process_group()
    return history


@pytest.mark.parametrize(
    "kind, data, size", [("decoder", 1, 2), ("llama", 1, 2), pytest.param("gpt2", 2, 2, marks=pytest.mark.slow), ("decoder", 2, 2)]
)
def test_twenty_steps_of_training_are_those_of_one_process(kind, data, size):
    def fresh() -> nn.Module:
        return decoder(num_attention_groups=2) if kind == "decoder" else family(kind, use_cache=False)

    expected = _trained(fresh(), 1, 1, 20)
    for history in run(_trained, data * size, fresh(), data, size, 20):
        np.testing.assert_allclose(history, expected, rtol=1e-5)
    assert expected[-1][0] < 0.8 * expected[0][0]


def _outside(model: nn.Module, ids: torch.Tensor) -> Any:
    """One rank alone computes, in the way of a callback that generates on the main process."""
    dist.init_process_group("gloo")
    context = apply_context(model, dist.group.WORLD)
    result = None
    if dist.get_rank() == 0:
        padding = torch.ones_like(ids)
        padding[0, :3] = 0
        result = model(input_ids=ids, attention_mask=padding).logits.detach().numpy()
    with pytest.raises(ZeroDivisionError), context.running():
        raise ZeroDivisionError
    assert not context.is_running
    dist.barrier()
    dist.destroy_process_group()
    return result


@pytest.mark.parametrize("model", [decoder(), family("llama"), family("gpt2")], ids=["decoder", "llama", "gpt2"])
def test_one_rank_alone_can_use_the_model_outside_of_training(model):
    ids = batch_of("no")["input_ids"][:, :10]  # a length that two ranks could not share
    padding = torch.ones_like(ids)
    padding[0, :3] = 0
    alone, nothing = run(_outside, 2, model, ids, timeout=30)
    assert nothing is None
    assert np.array_equal(alone, model(input_ids=ids, attention_mask=padding).logits.detach().numpy())


def _saved(model: Any, folder: str) -> Any:
    dist.init_process_group("gloo")
    apply_context(model, dist.group.WORLD)
    model.config.save_pretrained(folder)
    dist.destroy_process_group()


def test_a_saved_configuration_does_not_know_of_it(tmp_path):
    model = family("llama")
    run(_saved, 1, model, str(tmp_path))
    assert "ironloom" not in (tmp_path / "config.json").read_text()


def _refusals(models: list[Any]) -> list[str]:
    dist.init_process_group("gloo")
    messages = []
    for model in models:
        with pytest.raises(ConfigError) as caught:
            apply_context(model, dist.group.WORLD)
        messages.append(str(caught.value))
    for model in (decoder("absolute"), family("gpt2")):
        context = apply_context(model, dist.group.WORLD)
        with pytest.raises(DataError) as caught:
            context.split({"input_ids": torch.zeros(1, 72, dtype=torch.long)})
        messages.append(str(caught.value))
    dist.destroy_process_group()
    return messages


def test_models_and_lengths_that_would_be_wrong_are_refused():
    import transformers

    shape = {**SIZES, "num_key_value_heads": 2}
    cross = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=61, add_cross_attention=True))
    chunked = family("llama")
    chunked.config.layer_types = ["chunked_attention", "full_attention"]
    bidirectional = family("llama")
    bidirectional.config.is_causal = False
    other = transformers.GemmaForCausalLM(transformers.GemmaConfig(**shape, head_dim=8))
    messages = run(_refusals, 1, [nn.Linear(2, 2), cross, chunked, bidirectional, other])[0]
    for message, part in zip(
        messages,
        ["attention of Linear", "cross attention", "chunked_attention", "both directions", "'gemma'", "72 tokens", "64 positions"],
        strict=True,
    ):
        assert part in message
    assert all("context_parallel_size to 1" in message for message in messages[:5])
