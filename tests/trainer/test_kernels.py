"""``attention_kernel: flex`` trains the built-in decoder to the same weights, and is refused by name where it cannot."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from ironloom.errors import ConfigError
from ironloom.models import flex
from ironloom.trainer.kernels import use_flex
from spawned import run
from spread import MODELS, decoder, packed_rows, spread_over
from tiny import losses, tiny_trainer, uneven_samples, weights

FLEX = {"attention_kernel": "flex", "save_strategy": "no"}
ROPE = {"positional_embedding": {"type": "rope"}}


@pytest.mark.parametrize("samples", [uneven_samples, packed_rows])
def test_a_run_has_the_losses_and_weights_of_one_with_the_other_kernel(samples, tmp_path, monkeypatch):
    found, made = [], []
    real = flex.block_masks
    monkeypatch.setattr("ironloom.models.decoder.block_masks", lambda *given: made.append(given) or real(*given))
    for kernel in ("auto", "flex"):
        made.clear()
        model = decoder(**ROPE, sliding_window=5, sliding_window_layers=[1])
        trainer = tiny_trainer(tmp_path / kernel, model, samples(23), **{**FLEX, "attention_kernel": kernel})
        trainer.train()
        assert trainer._engine.is_probed == (samples is packed_rows)
        assert len(made) >= (6 if kernel == "flex" else 0) and bool(made) == (kernel == "flex")
        found.append((losses(trainer.state.log_history), weights(model)))
    (one, before), (other, after) = found
    assert [loss for _, loss in other] == pytest.approx([loss for _, loss in one], rel=1e-6)
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-4, rtol=1e-4)


def test_the_next_trainer_of_a_model_chooses_anew(tmp_path):
    model = decoder(**ROPE)
    tiny_trainer(tmp_path / "one", model, **FLEX, max_steps=1).train()
    assert model.model.is_flex
    tiny_trainer(tmp_path / "two", model, save_strategy="no", max_steps=1).train()
    assert not model.model.is_flex


@pytest.mark.parametrize(
    "make, message",
    [
        (MODELS["llama"], "kernel of the built-in decoder, not of LlamaForCausalLM: .* attn_implementation: flex_attention instead"),
        (lambda: decoder(dropout_attn=0.2), "the model's dropout_attn is 0.2: set dropout_attn to 0, or attention_kernel to auto"),
    ],
    ids=["another model", "dropout"],
)
def test_what_it_cannot_train_is_refused_before_anything_is_computed(make, message, tmp_path):
    model = make()
    before = weights(model)
    with pytest.raises(ConfigError, match=message):
        tiny_trainer(tmp_path, model, **FLEX).train()
    assert all(torch.equal(before[name], weight) for name, weight in weights(model).items())


def test_dropout_is_no_hindrance_where_nothing_is_trained(tmp_path):
    model = decoder(dropout_attn=0.2, **ROPE)
    expected = tiny_trainer(tmp_path, model).evaluate(packed_rows(8))["eval_loss"]
    assert tiny_trainer(tmp_path, model, **FLEX).evaluate(packed_rows(8))["eval_loss"] == pytest.approx(expected, rel=1e-6)


def test_devices_without_the_kernel_are_refused():
    with pytest.raises(ConfigError, match="has no gradient on mps"):
        use_flex(decoder(), True, torch.device("mps"))
    with pytest.raises(ConfigError, match="needs a head_dim of at least 16 on cuda, found 4"):
        use_flex(decoder(), True, torch.device("cuda"))
    use_flex(decoder(head_dim=16), True, torch.device("cuda"))


def test_processes_that_share_sequences_are_refused():
    def one() -> str:
        with tempfile.TemporaryDirectory() as folder:
            options = {"device_parameters": spread_over(context_parallel_size=2)}
            trainer = tiny_trainer(Path(folder), decoder(**ROPE), packed_rows(8), options=options, **FLEX)
            with pytest.raises(ConfigError) as refused:
                trainer.train()
            return str(refused.value)

    for found in run(one, 2):
        assert found.startswith("attention_kernel flex does not reach over the processes that share a sequence: set")


def test_the_probe_names_the_kernel(tmp_path, monkeypatch):
    """A mask that lets documents see each other."""
    real = flex.block_masks
    monkeypatch.setattr("ironloom.models.decoder.block_masks", lambda windows, mask, where, ids: real(windows, mask, None, ids))
    with pytest.raises(ConfigError, match="see each other in Decoder with flex attention in float32"):
        tiny_trainer(tmp_path, decoder(**ROPE), packed_rows(8), **FLEX).train()
