"""FlexAttention as the kernel of the built-in decoder gives the numbers of the other kernels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from ironloom.errors import DataError
from ironloom.models import flex
from ironloom.models.flex import block_masks
from ironloom.models.generate import continue_prompts
from ironloom.models.sampling import Sampling
from ironloom.parallel.recompute import recompute_blocks
from models.flexing import as_on_accelerators, through_the_compiler
from models.packing import ROWS, positions
from models.twins import VOCABULARY, decoder, small, tokens

SHAPE = {"positional_embedding": {"type": "rope"}, "num_attention_groups": 2, "num_layers": 3}
#: The second layer has a window.
NEAR = {**SHAPE, "sliding_window": 4, "sliding_window_layers": [1]}


def padding() -> Tensor:
    """On the left, on the right, none."""
    return torch.stack((torch.arange(16) >= 3, torch.arange(16) < 11, torch.ones(16, dtype=torch.bool))).long()


def by_four() -> Tensor:
    """Each token sees itself and every second one before it."""
    back = torch.arange(16)[:, None] - torch.arange(16)
    return ((back >= 0) & (back % 2 == 0)).expand(3, 1, 16, 16)


BATCHES: dict[str, dict[str, Tensor]] = {
    "plain": {},
    "positions that go on": {"position_ids": torch.arange(16)[None]},
    "documents": {"position_ids": positions()},
    "padding": {"attention_mask": padding()},
    "positions alone": {"attention_mask": torch.ones(3, 16, dtype=torch.long), "position_ids": positions()},
    "four dimensions": {"attention_mask": by_four()},
    "four dimensions for all rows": {"attention_mask": by_four()[:1]},
}


def logits_and_gradients(
    is_flex: bool, shape: dict[str, Any], batch: dict[str, Tensor], strategy: Any = None, backend: str | None = None
) -> list[Tensor]:
    model = decoder(small(**shape)).double()
    model.model.is_flex = is_flex
    if strategy is not None:
        recompute_blocks(model, strategy)
    if backend is not None:
        for layer in model.model.layers:
            layer.compile(backend=backend)
    logits = model(tokens(3, 16), **batch).logits
    return [logits.detach(), *torch.autograd.grad(logits.log_softmax(-1).square().sum(), list(model.parameters()))]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("itself", [False, True], ids=["on the CPU", "itself"])
@pytest.mark.parametrize("shape", [SHAPE, NEAR], ids=["no window", "window in one layer"])
@pytest.mark.parametrize("batch", BATCHES)
def test_logits_and_gradients_are_those_of_the_other_kernel(batch, shape, itself, monkeypatch):
    expected = logits_and_gradients(False, shape, BATCHES[batch])
    if itself:
        as_on_accelerators(monkeypatch)
    for one, other in zip(logits_and_gradients(True, shape, BATCHES[batch]), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_blocks_of_other_documents_are_left_out(monkeypatch):
    """Four documents of two blocks each: of 8 x 8 blocks the diagonal and one below it in each document are computed."""
    as_on_accelerators(monkeypatch)
    where = torch.arange(256).repeat(4)[None]
    (mask,) = block_masks([None], None, where, where).masks.values()
    assert mask.kv_num_blocks.sum() == 8  # on the diagonal, where the function is asked
    assert mask.full_kv_num_blocks.sum() == 4
    (plain,) = block_masks([None], None, None, where).masks.values()
    assert plain.full_kv_num_blocks.sum() == 28
    near = block_masks([128], None, None, where).masks[128]
    assert near.kv_num_blocks.sum() + near.full_kv_num_blocks.sum() == 15


@torch.no_grad()
def test_a_mask_is_made_once_for_all_layers_with_the_same_window(monkeypatch):
    made = Counter()
    real = flex._made

    def counted(*arguments):
        made[arguments[1:3]] += 1
        return real(*arguments)

    monkeypatch.setattr(flex, "_made", counted)
    model = decoder(small(**NEAR))
    model.model.is_flex = True
    model(tokens(3, 16), position_ids=positions())
    assert made == {(3, 16): 2}


def test_what_the_kernel_cannot_do_is_refused_by_name():
    model = decoder(small(**SHAPE, dropout_attn=0.1))
    model.model.is_flex = True
    model.eval()(tokens(3, 16))
    with pytest.raises(ValueError, match="drops no weights: set dropout_attn to 0"):
        model.train()(tokens(3, 16))
    for wrong in (by_four().float(), by_four().expand(3, 4, 16, 16)):
        with pytest.raises(DataError, match=r"expected an attention_mask of booleans \[B, 1, S, S\], found torch"):
            model.eval()(tokens(3, 16), attention_mask=wrong)


@pytest.mark.parametrize("shape", [SHAPE, NEAR])
def test_texts_are_those_of_the_other_kernel_with_a_cache_and_without(shape):
    model = decoder(small(**shape))
    written = []
    for is_flex in (False, True):
        model.model.is_flex = is_flex
        for use_cache in (False, True):
            prompts = [[5, 6, 7, 8, 9], [1, 2]]
            written.append(continue_prompts(model, prompts, Sampling(), max_new_tokens=8, seeds=[0, 1], use_cache=use_cache))
    assert all(texts == written[0] for texts in written)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("compiled", [False, True], ids=["", "compiled layers"])
@pytest.mark.parametrize("strategy", [None, "full", "selective"])
def test_gradients_through_the_compiler_and_recomputed_layers_are_the_same(strategy, compiled, monkeypatch):
    """As on accelerators, but for what turns the formula into a program."""
    expected = logits_and_gradients(False, NEAR, BATCHES["documents"])
    through_the_compiler(monkeypatch, "aot_eager")
    backend = "aot_eager" if compiled else None
    for one, other in zip(logits_and_gradients(True, NEAR, BATCHES["documents"], strategy, backend), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_other_documents_and_lengths_are_not_compiled_anew(monkeypatch):
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    through_the_compiler(monkeypatch, backend)
    model, counts = decoder(small(**{**SHAPE, "num_layers": 1, "max_seq_len": 700})), []
    model.model.is_flex = True
    for length, cut in ((200, 3), (300, 140), (555, 200), (200, 100)):
        where = torch.cat((torch.arange(cut), torch.arange(length - cut)))[None]
        model(torch.randint(VOCABULARY, (2, length)), position_ids=where)
        counts.append(len(graphs))
    assert counts[0] > 0
    assert len(set(counts[1:])) == 1, counts


@pytest.mark.slow
@torch.no_grad()
def test_the_compiled_kernel_with_compiled_masks_gives_the_same(monkeypatch):
    """PyTorch has a compiled forward for the CPU, for one row of blocks or several."""
    import torch._dynamo

    monkeypatch.setattr(flex, "FUSED", ("cpu",))
    model = decoder(small(**NEAR, max_seq_len=300))
    for rows in (ROWS, ROWS[::-1]):
        batches: list[tuple[Tensor, dict[str, Tensor]]] = [(tokens(3, 16), {"position_ids": positions(rows)})]
        batches.append((tokens(2, 300), {"position_ids": positions(((140, 160), (7, 293)))}))
        batches.append((tokens(3, 16), {"attention_mask": padding()}))
        for ids, options in batches:
            model.model.is_flex = False
            expected = model(ids, **options).logits
            model.model.is_flex = True
            torch.testing.assert_close(model(ids, **options).logits, expected, atol=1e-4, rtol=1e-4)
    torch._dynamo.reset()


def test_half_precision_is_kept():
    model = decoder(small(**NEAR)).eval()
    model.model.is_flex = True
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert model(torch.randint(VOCABULARY, (3, 16))).logits.dtype is torch.bfloat16
