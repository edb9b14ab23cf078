"""Documents that share a row do not see each other in the built-in decoder: not a bit, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ironloom.models import Decoder, documents
from ironloom.models.attention import attend
from ironloom.models.documents import Documents, find_documents
from models.flexing import as_on_accelerators
from models.packing import ROWS, apart_from_alone, leaking_tokens, packed, positions
from models.twins import VOCABULARY, decoder, gpt2_twins, llama_twins, small, tokens

ROPE = {"type": "rope"}
SHAPES = {
    "rope, grouped": {"positional_embedding": ROPE, "num_attention_groups": 2},
    "learned positions": {},
    "no positions": {"positional_embedding": {"type": "none"}},
    "window": {"positional_embedding": ROPE, "sliding_window": 4},
    "window, norms of heads": {
        "positional_embedding": ROPE,
        "sliding_window": 4,
        "qk_norm": True,
    },
    "norms behind": {"post_ln": True},
}
#: How documents are kept apart: one by one, by the mask that accelerators and compilers get, by what FlexAttention is on the CPU, and
#: by FlexAttention itself.
WAYS = ("one by one", "mask", "flex", "flex itself")


@pytest.fixture(autouse=True)
def _way(request, monkeypatch):
    monkeypatch.setattr(documents, "SHORT_ROW", 8)  # the rows here are long
    if getattr(request.node, "callspec", None) is not None and request.node.callspec.params.get("way") == "flex itself":
        as_on_accelerators(monkeypatch)


def made(shape: str, way: str, dtype: torch.dtype = torch.float32, **changes: object) -> Decoder:
    model = decoder(small(**{**SHAPES[shape], **changes})).to(dtype)
    model.model.is_flex = way.startswith("flex")
    if way == "mask":
        model.model.separate = lambda position_ids, rows, as_mask: find_documents(position_ids, rows, as_mask=True)
    return model


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_document_sees_another(shape, way):
    changed, expected = leaking_tokens(made(shape, way).eval(), packed(VOCABULARY))
    assert torch.equal(changed, expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_documents_have_the_logits_and_gradients_of_each_alone(shape, way):
    found = apart_from_alone(made(shape, way, torch.float64), made(shape, "one by one", torch.float64), packed(VOCABULARY))
    assert max(found.values()) < 1e-12, found
    found = apart_from_alone(made(shape, way), made(shape, "one by one"), packed(VOCABULARY))
    assert max(found["logits"], found["all"]) < 1e-5, found


@pytest.mark.parametrize("twins", [llama_twins, gpt2_twins])
@torch.no_grad()
def test_a_packed_batch_means_to_us_what_it_means_to_transformers(twins):
    ours, theirs = twins()
    ids, where = tokens(3, 16), positions()
    expected = theirs(input_ids=ids, position_ids=where, use_cache=False).logits
    torch.testing.assert_close(ours(ids, position_ids=where).logits, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, theirs(input_ids=ids, use_cache=False).logits, atol=1e-2)


def test_dropout_of_attention_weights_keeps_documents_apart():
    """By gradients, because two passes draw differently."""
    model = made("rope, grouped", "one by one", dropout_attn=0.3).train()
    where, seen = positions(), []
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: seen.append(output))
    model(tokens(3, 16), position_ids=where).logits[0, 5:].sum().backward(inputs=list(model.parameters()), retain_graph=True)
    seen.clear()
    logits = model(tokens(3, 16), position_ids=where).logits
    (grad,) = torch.autograd.grad(logits[0, 6:].sum(), seen)
    assert not grad[0, :6].any()
    assert grad[0, 6:].any(dim=-1).all()


@torch.no_grad()
def test_with_a_mask_positions_are_only_positions():
    model, ids, where = made("rope, grouped", "one by one"), tokens(3, 16), positions()
    seen = model(ids, attention_mask=torch.ones_like(ids), position_ids=where).logits
    assert not torch.allclose(seen, model(ids, position_ids=where).logits, atol=1e-3)
    other = ids.clone()
    other[0, 0] = (ids[0, 0] + 1) % VOCABULARY
    moved = model(other, attention_mask=torch.ones_like(ids), position_ids=where).logits
    assert (moved != seen)[0, 15].any()


@torch.no_grad()
def test_one_document_per_row_is_plain_attention_bit_for_bit():
    model, ids = made("rope, grouped", "one by one"), tokens(3, 16)
    where = torch.arange(16)[None]
    assert find_documents(where, 3) is None
    assert torch.equal(model(ids, position_ids=where).logits, model(ids).logits)
    assert find_documents(where + 5, 3) is None  # where a text goes on


def test_documents_are_found_where_positions_do_not_go_on_by_one():
    assert find_documents(positions(), 3) == Documents((5, 1, 10, 16, 7, 9))
    assert find_documents(positions(((6, 6),)), 2) == Documents((6, 6, 6, 6))
    mask = find_documents(positions(((2, 3),)), 1, as_mask=True)
    assert torch.equal(mask[0, 0], torch.block_diag(torch.ones(2, 2), torch.ones(3, 3)).tril().bool())


def test_short_rows_get_a_mask_where_there_is_something_to_separate():
    """One call for all documents: those for each take several times as long where documents are short."""
    assert torch.equal(find_documents(positions(((2, 6),)), 1), find_documents(positions(((2, 6),)), 1, as_mask=True))
    assert find_documents(positions(((2, 7),)), 1) == Documents((2, 7))
    assert find_documents(positions(((8,),)), 1) is None


@pytest.mark.parametrize("window", [None, 4])
def test_matrix_products_in_half_precision_heed_a_mask(window):
    """To the rounding of the inputs; float64 goes through PyTorch's kernel."""
    torch.manual_seed(0)
    heads = [torch.randn(3, 16, number, 8, dtype=torch.float64).bfloat16().requires_grad_() for number in (4, 2, 2)]
    mask = find_documents(positions(), 3, as_mask=True)
    found = attend(*heads, mask, 0.0, window)
    expected = attend(*(part.double() for part in heads), mask, 0.0, window)
    torch.testing.assert_close(found.double(), expected, atol=2e-2, rtol=2e-2)
    signs = torch.randn_like(found)
    grads = [torch.autograd.grad(mixed, heads, signs.to(mixed.dtype)) for mixed in (found, expected)]
    for ours, exact in zip(*grads, strict=True):
        torch.testing.assert_close(ours, exact, atol=4e-2, rtol=4e-2)


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_half_precision_keeps_documents_apart(way):
    changed, expected = leaking_tokens(made("rope, grouped", way, torch.bfloat16), packed(VOCABULARY))
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("way", ["one by one", "flex", "flex itself"])
@pytest.mark.parametrize("whole", [True, False])
@torch.no_grad()
def test_compiled_once_for_all_boundaries(whole, way):
    import torch._dynamo

    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model, ids = made("window", way), tokens(3, 16)
    expected = [model(ids, position_ids=positions(rows)).logits for rows in (ROWS, ROWS[::-1])]
    forward = torch.compile(model, backend=backend) if whole else model
    if not whole:
        for layer in model.model.layers:
            layer.compile(backend=backend)
    counts = []
    for rows, logits in zip((ROWS, ROWS[::-1]), expected, strict=True):
        torch.testing.assert_close(forward(ids, position_ids=positions(rows)).logits, logits, atol=1e-5, rtol=1e-5)
        counts.append(len(graphs))
    assert counts[0] == counts[1] > 0
    torch._dynamo.reset()


def test_where_a_mask_is_used_on_an_accelerator_there_are_as_many_keys_as_queries(monkeypatch):
    """Its kernels for grouped heads take no mask. The meta device stands for one."""
    seen = []
    real = F.scaled_dot_product_attention

    def watched(queries, keys, values, **options):
        seen.append((keys.shape[1], options["enable_gqa"]))
        return real(queries, keys, values, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    queries, keys = torch.empty(3, 16, 4, 8, device="meta"), torch.empty(3, 16, 2, 8, device="meta")
    for mask in (find_documents(positions().to("meta"), 3), None):
        assert attend(queries, keys, keys, mask, 0.0).shape == (3, 4, 16, 8)
    assert seen == [(4, False), (2, True)]
