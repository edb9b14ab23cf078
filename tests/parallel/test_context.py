"""How sequences are cut for context parallelism, without any process."""

from __future__ import annotations

import pytest
import torch

from ironloom.errors import ConfigError, DataError
from ironloom.models.attention import causal_padding_mask
from ironloom.objectives import CrossEntropy, FunctionLoss, ModelLoss
from ironloom.parallel.context import Layout, length_problem
from ironloom.parallel.context_batch import in_order, local_part, split_batch

LAYOUTS = [(size, order) for size in (1, 2, 3, 4) for order in ("zigzag", "contiguous")]


@pytest.mark.parametrize("size, order", LAYOUTS)
def test_the_parts_of_all_ranks_are_the_whole(size, order):
    whole = torch.arange(2 * 24 * 3).reshape(2, 24, 3)
    parts = [local_part(whole, Layout(size, rank, order)) for rank in range(size)]
    assert all(part.shape == (2, 24 // size, 3) for part in parts)
    assert torch.equal(in_order(parts, Layout(size, 0, order)), whole)


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_zigzag_gives_every_rank_the_same_work(size):
    """The keys that a rank's queries look at; in contiguous order the last rank has nearly all of them."""
    length = 16 * size
    work = {
        order: [sum(sum(range(start + 1, end + 1)) for start, end in Layout(size, rank, order).pieces(length)) for rank in range(size)]
        for order in ("zigzag", "contiguous")
    }
    assert len(set(work["zigzag"])) == 1
    assert work["contiguous"][-1] > 2 * work["contiguous"][0]
    assert sum(work["zigzag"]) == sum(work["contiguous"]) == length * (length + 1) // 2


def test_a_length_that_cannot_be_shared_is_refused_with_the_nearest_that_can():
    assert length_problem(1024, 4) is None
    assert length_problem(12, 4, "contiguous") is None
    assert "use 8 tokens" in length_problem(0, 4)
    problem = length_problem(1001, 4)
    assert "1,001" in problem and "1,000 or 1,008 tokens" in problem and "multiple of 8" in problem
    assert "use 8 tokens" in length_problem(5, 4)
    for length in range(1, 40):
        for size in (2, 3, 4):
            for order in ("zigzag", "contiguous"):
                divisible = length % Layout(size, 0, order).multiple == 0
                assert (length_problem(length, size, order) is None) == divisible
    with pytest.raises(DataError, match="use 8 or 12 tokens"):
        split_batch({"input_ids": torch.zeros(1, 10, dtype=torch.long)}, Layout(2, 0))


@pytest.mark.parametrize("size, order", LAYOUTS)
def test_no_target_is_lost_where_a_sequence_is_cut(size, order):
    ids = torch.arange(2 * 24).reshape(2, 24)
    labels = ids.clone()
    labels[0, 5:9] = -100
    objective = CrossEntropy()
    parts = [split_batch({"input_ids": ids, "labels": labels}, Layout(size, rank, order), objective) for rank in range(size)]
    pairs = set()
    for part in parts:
        assert "labels" not in part
        flat = zip(part["input_ids"].flatten().tolist(), part["shift_labels"].flatten().tolist(), strict=True)
        pairs |= {(token, target) for token, target in flat if target != -100}
    # A target is the label of the next position, and the token before it is the one that has to predict it.
    assert pairs == {
        (row * 24 + at - 1, row * 24 + at) for row in range(2) for at in range(1, 24) if (row, at) not in {(0, n) for n in range(5, 9)}
    }
    assert sum(objective.weight(part) for part in parts) == objective.weight({"labels": labels}) == len(pairs)


def test_targets_that_stand_at_their_tokens_are_cut_where_they_are():
    ids = torch.arange(8).reshape(1, 8)
    tags = split_batch({"input_ids": ids, "tags": ids + 100}, Layout(2, 0), CrossEntropy(shift=False, labels_key="tags"))
    assert torch.equal(tags["tags"], tags["input_ids"] + 100)
    shifted = split_batch({"input_ids": ids, "labels": ids, "shift_labels": ids + 1}, Layout(2, 1), CrossEntropy())
    assert torch.equal(shifted["shift_labels"], shifted["input_ids"] + 1) and "labels" not in shifted


def test_every_token_keeps_its_position():
    batch = {"input_ids": torch.arange(16).reshape(2, 8), "sample_weight": torch.ones(2)}
    parts = [split_batch(batch, Layout(2, rank)) for rank in range(2)]
    assert parts[0]["position_ids"].tolist() == [[0, 1, 6, 7]] * 2
    assert parts[1]["position_ids"].tolist() == [[2, 3, 4, 5]] * 2
    assert parts[0]["sample_weight"] is batch["sample_weight"]
    own = split_batch({**batch, "position_ids": torch.arange(100, 116).reshape(2, 8)}, Layout(2, 1))
    assert own["position_ids"].tolist() == [[102, 103, 104, 105], [110, 111, 112, 113]]
    vectors = torch.randn(2, 8, 3)
    assert torch.equal(split_batch({"inputs_embeds": vectors}, Layout(2, 1))["inputs_embeds"], vectors[:, 2:6])


def test_masks_are_rows_of_the_mask_of_one_process():
    padding = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 1, 0, 0]])
    batch = {"input_ids": torch.zeros(2, 8, dtype=torch.long), "attention_mask": padding}
    whole = causal_padding_mask(padding)
    for order in ("zigzag", "contiguous"):
        for rank in range(2):
            layout = Layout(2, rank, order)
            assert torch.equal(split_batch(batch, layout)["attention_mask"], local_part(whole, layout, dim=2))
    plain = split_batch({**batch, "attention_mask": torch.ones(2, 8)}, Layout(2, 0))
    assert "attention_mask" not in plain


def test_documents_in_a_row_are_kept_apart_where_one_process_does():
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    batch = {"input_ids": torch.zeros(1, 8, dtype=torch.long), "position_ids": positions}
    apart = split_batch(batch, Layout(2, 1, "contiguous"), sees_itself=False)
    rows = [[0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1, 1]]
    assert apart["attention_mask"].int().tolist() == [[rows]]
    together = {**batch, "attention_mask": torch.ones(1, 8)}  # said by a mask: only positions start again
    assert "attention_mask" not in split_batch(together, Layout(2, 1))
    one = {**batch, "position_ids": torch.arange(8)[None]}
    assert "attention_mask" not in split_batch(one, Layout(2, 1))


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"attention_mask": torch.ones(1, 1, 8, 8)}, "'attention_mask' of shape"),
        ({"position_ids": torch.zeros(3, 1, 8)}, "'position_ids' of shape"),
        ({"labels": torch.zeros(1, 7, dtype=torch.long)}, "'shift_labels' of shape"),
        ({"special_tokens_mask": torch.zeros(1, 8)}, "how to cut 'special_tokens_mask'"),
    ],
)
def test_what_cannot_be_cut_is_named(columns, message):
    with pytest.raises(DataError, match=message):
        split_batch({"input_ids": torch.zeros(1, 8, dtype=torch.long), **columns}, Layout(2, 0), CrossEntropy())
    with pytest.raises(DataError, match=r"needs 'input_ids'.*'pixels'"):
        split_batch({"pixels": torch.zeros(1, 8)}, Layout(2, 0))


@pytest.mark.parametrize(
    "objective, message",
    [
        (FunctionLoss(lambda outputs, labels, num_items_in_batch: outputs), "leave compute_loss_func"),
        (ModelLoss(), "ModelLoss computes its loss from whole ones"),
        (CrossEntropy(make_decoder_inputs=lambda labels: labels), "encoder-decoder"),
        (CrossEntropy(keep_labels=True), "called without labels"),
        (CrossEntropy(aux_coefficient=0.1), "experts"),
    ],
)
def test_losses_that_are_no_sums_over_parts_are_refused(objective, message):
    batch = {"input_ids": torch.zeros(1, 8, dtype=torch.long), "labels": torch.zeros(1, 8, dtype=torch.long)}
    with pytest.raises(ConfigError, match=message):
        split_batch(batch, Layout(2, 0), objective)
