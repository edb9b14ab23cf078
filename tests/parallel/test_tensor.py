"""Tensor parallelism's options: a loss from split logits, slices of sequences between the layers, and who draws which dropout."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from ironloom.errors import ConfigError, DataError
from ironloom.models.plan import split_plan_of
from ironloom.objectives import CrossEntropy, FunctionLoss, ModelLoss, logits_of
from ironloom.parallel.tensor import split_layers
from ironloom.parallel.vocabulary import SplitVocabulary
from spawned import run
from spread import MODELS, decoder, gpt2, of_transformers, spread_over
from tiny import VOCABULARY, tiny_trainer, uneven_samples

SPLIT = {"tensor_parallel_size": 2}


def _drawn(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(4)
    hidden = torch.randn(40, 6, generator=draw).to(dtype)
    weight = torch.randn(VOCABULARY, 6, generator=draw).to(dtype)
    bias = torch.randn(VOCABULARY, generator=draw).to(dtype)
    targets = torch.randint(0, VOCABULARY, (40,), generator=draw)
    targets[5:14] = -100
    return hidden, weight, bias, targets


def _split_loss(dtype: torch.dtype) -> dict[str, Any]:
    dist.init_process_group("gloo")
    vocabulary = SplitVocabulary(dist.group.WORLD, VOCABULARY, sums_later=False)
    *numbers, targets = _drawn(dtype)
    inputs = [tensor.requires_grad_() for tensor in numbers]
    with vocabulary.running():
        logits = vocabulary.score(*inputs)
        loss = vocabulary.nll_sum(logits, targets, -100)
        loss.backward()
    whole = vocabulary.score(*inputs)
    refused = ""
    try:
        with vocabulary.running():
            vocabulary.objective(CrossEntropy()).loss_sum({"logits": logits}, {"shift_labels": torch.full((40,), VOCABULARY)}, 1)
    except DataError as error:
        refused = str(error)
    dist.destroy_process_group()
    return {
        "columns": logits.shape[1],
        "all columns": whole.shape[1],
        "numbers": [loss.item(), *(tensor.grad.float().tolist() for tensor in inputs)],  # type: ignore[union-attr]
        "refused": refused,
    }


@pytest.mark.parametrize("size, dtype", [(1, torch.float32), (3, torch.float32), (2, torch.bfloat16)])
def test_a_loss_on_split_logits_is_that_on_whole_ones(size: int, dtype: torch.dtype) -> None:
    """Also where the vocabulary cannot be divided: 31 tokens over two or three processes."""
    *numbers, targets = _drawn(dtype)
    inputs = [tensor.requires_grad_() for tensor in numbers]
    loss = F.cross_entropy(F.linear(*inputs).float(), targets, ignore_index=-100, reduction="sum")
    expected = [loss.detach(), *torch.autograd.grad(loss, inputs)]
    tolerance = 1e-6 if dtype is torch.float32 else 1e-2
    results = run(_split_loss, size, dtype)
    assert sum(result["columns"] for result in results) == VOCABULARY == results[0]["all columns"]
    for result in results:
        assert f"label {VOCABULARY} is outside the model's {VOCABULARY} classes" in result["refused"]
        for value, exact in zip(result["numbers"], expected, strict=True):
            torch.testing.assert_close(torch.tensor(value), exact.float(), rtol=tolerance, atol=tolerance * float(exact.abs().max()))


def test_losses_that_need_whole_logits_are_refused() -> None:
    def refusals() -> list[str]:
        dist.init_process_group("gloo")
        vocabulary = SplitVocabulary(dist.group.WORLD, 4, sums_later=False)
        said = []
        for objective in (FunctionLoss(lambda *args, **kwargs: torch.zeros(())), ModelLoss(), CrossEntropy(keep_labels=True)):
            with pytest.raises(ConfigError, match="leave loss_parallel out") as error:
                vocabulary.objective(objective)
            said.append(str(error.value))
        return said

    function, model, own = run(refusals, 1)[0]
    assert "FunctionLoss" in function and "ModelLoss" in model and "the model's own" in own


class _Seen:
    """What modules of a model give in the first step."""

    def __init__(self, model: nn.Module, *paths: str):
        self.outputs: dict[str, torch.Tensor] = {}
        for path in paths:
            model.get_submodule(path).register_forward_hook(self._keep(path))

    def _keep(self, path: str) -> Any:
        def keep(module: nn.Module, arguments: Any, output: torch.Tensor) -> None:
            self.outputs.setdefault(path, output.detach().clone())

        return keep


def _outputs(
    make: Any, sizes: dict[str, Any], paths: tuple[str, ...], length: int = 12
) -> tuple[dict[str, torch.Tensor], dict[str, float], Any]:
    model = make()
    seen = _Seen(model, *paths)
    with tempfile.TemporaryDirectory() as folder:
        options = {"device_parameters": spread_over(**sizes), "compute_metrics": _shape}
        samples = [uneven_samples(1, length)[0]] * 8  # alike, so that only their dropout can differ
        trainer = tiny_trainer(Path(folder), model, samples, options=options, max_steps=2, save_strategy="no")
        trainer.train()
        return (
            seen.outputs,
            trainer.evaluate(),
            [p.to_local() if hasattr(p, "to_local") else p for p in model.transformer.ln_f.parameters()],
        )


def _shape(prediction: Any) -> dict[str, float]:
    assert prediction.predictions.shape[-1] == VOCABULARY
    return {"mean_logit": float(prediction.predictions.mean())}


def _dropping() -> nn.Module:
    model = gpt2()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    return model


DROPOUTS = ("transformer.drop", "transformer.h.0.attn.resid_dropout", "transformer.h.1.mlp.dropout")


@pytest.mark.parametrize("options", [{}, {"loss_parallel": True}])
def test_dropout_agrees_across_tensor_ranks(options: dict[str, Any]) -> None:
    """Else what each of them holds as a whole would not be the same, and the weights of norms would part."""
    (one, metrics, norms), (other, other_metrics, other_norms) = run(lambda: _outputs(_dropping, {**SPLIT, **options}, DROPOUTS), 2)
    for path in DROPOUTS:
        assert (one[path] == 0).any() and torch.equal(one[path] == 0, other[path] == 0)
    assert metrics["eval_mean_logit"] == other_metrics["eval_mean_logit"]
    assert all(map(torch.equal, norms, other_norms))


def test_dropout_differs_across_data_ranks() -> None:
    (one, *_), (other, *_) = run(lambda: _outputs(_dropping, {"dp_replicate": 2}, DROPOUTS), 2)
    assert not any(torch.equal(one[path] == 0, other[path] == 0) for path in DROPOUTS)


@pytest.mark.parametrize("length", [12, 11])
def test_slices_of_sequences(length: int) -> None:
    """Norms and dropout get a part of the tokens, layers all of them; the dropout of one slice is not that of another."""
    paths = (*DROPOUTS[1:], "transformer.h.0.ln_1", "transformer.h.1.attn.c_attn", "lm_head")
    sizes = {**SPLIT, "sequence_parallel": True, "loss_parallel": True}
    (one, metrics, norms), (other, other_metrics, other_norms) = run(lambda: _outputs(_dropping, sizes, paths, length), 2)
    for path in (*DROPOUTS[1:], "transformer.h.0.ln_1"):
        assert one[path].shape[1] == other[path].shape[1] == 6
    for path in DROPOUTS[1:]:
        assert not torch.equal(one[path] == 0, other[path] == 0)
    assert one["transformer.h.1.attn.c_attn"].shape[1] == length
    assert (one["lm_head"].shape[2], other["lm_head"].shape[2]) == (15, 16)
    assert metrics["eval_mean_logit"] == other_metrics["eval_mean_logit"]
    assert all(map(torch.equal, norms, other_norms))


class _Sums(TorchDispatchMode):
    """Counts sums over processes."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again with the tensors of this process
        self.count += function.overloadpacket.__name__ in ("all_reduce", "allreduce_", "all_reduce_")
        return function(*args, **(kwargs or {}))


def _sums(family: str) -> list[int]:
    """How many of them the forward and the backward pass of two blocks take."""
    model = MODELS[family]()
    split_layers(model, split_plan_of(model), init_device_mesh("cpu", (2,), mesh_dim_names=("tp",)))
    with _Sums() as sums:
        loss = logits_of(model(input_ids=torch.arange(24).reshape(2, 12))).square().sum()
        forward = sums.count
        loss.backward()
    dist.destroy_process_group()
    return [forward, sums.count - forward]


@pytest.mark.parametrize("family", ["decoder", "decoder, gated, untied", "llama", "qwen2", "mistral", "gpt2"])
def test_all_that_read_the_same_hidden_states_sum_their_gradients_together(family: str) -> None:
    """Two sums forward and two backward for each block, whatever the number of layers behind an entrance."""
    assert run(lambda: _sums(family), 2) == [[4, 4]] * 2


def test_models_that_are_not_known_to_work_on_slices_are_refused() -> None:
    def refusal() -> str:
        model = of_transformers("Llama")
        model.config.model_type = "unheard of"  # type: ignore[union-attr, assignment]
        with pytest.raises(ConfigError) as error, tempfile.TemporaryDirectory() as folder:
            options = {"device_parameters": spread_over(**SPLIT, sequence_parallel=True)}
            tiny_trainer(Path(folder), model, options=options).train()
        return str(error.value)

    assert "sequence_parallel has not been compared with one process for LlamaForCausalLM" in run(refusal, 2)[0]


def test_layers_that_are_not_plain_are_not_split() -> None:
    """An adapter around a linear layer, say."""

    def refusal() -> str:
        model: Any = of_transformers("Llama")
        model.model.layers[1].mlp.up_proj = nn.Sequential(model.model.layers[1].mlp.up_proj)
        with pytest.raises(ConfigError) as error, tempfile.TemporaryDirectory() as folder:
            tiny_trainer(Path(folder), model, options={"device_parameters": spread_over(**SPLIT)}).train()
        return str(error.value)

    assert "model.layers.1.mlp.up_proj is a Sequential" in run(refusal, 2)[0]


def test_whole_logits_without_a_group_after_training() -> None:
    """A model whose logits are split for the loss is called as any other outside of training."""

    def logits() -> int:
        with tempfile.TemporaryDirectory() as folder:
            options = {"device_parameters": spread_over(**SPLIT, loss_parallel=True)}
            trainer = tiny_trainer(Path(folder), decoder(), options=options, max_steps=1, save_strategy="no")
            trainer.train()
            return int(trainer.model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.shape[-1])

    assert run(logits, 2) == [VOCABULARY] * 2
