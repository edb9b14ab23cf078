"""Loss and gradient of preferences against TRL's ``DPOTrainer``, on the batch that it makes (``pip install trl``)."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from ironloom.objectives import DPO
from spread import of_transformers

LOSSES = ("sigmoid", "ipo", "hinge", "sigmoid_norm")
RECORDS = [
    {"prompt": "what is two and two ?", "chosen": " four", "rejected": " five or six or seven"},
    {"prompt": "say it", "chosen": " it is four and not five", "rejected": " no"},
    {"prompt": "is four two and two or three and three ?", "chosen": " two and two", "rejected": " three and three and two"},
    {"prompt": "what ?", "chosen": " what is it", "rejected": " five"},
]


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for record in RECORDS for text in record.values() for word in text.split()})
    plain = Tokenizer(models.WordLevel({word: place for place, word in enumerate(["<end>", "<unknown>", *words])}, unk_token="<unknown>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>", pad_token="<end>", unk_token="<unknown>")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_are_those_of_trl(tmp_path: Path, loss: str) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    model, reference = of_transformers("Llama"), of_transformers("Llama")
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    ours = copy.deepcopy(model)
    args = trl.DPOConfig(
        output_dir=str(tmp_path),
        loss_type=[loss],
        beta=0.3,
        per_device_train_batch_size=4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
    )
    trainer = trl.DPOTrainer(
        model=model, ref_model=copy.deepcopy(reference), args=args, train_dataset=Dataset.from_list(RECORDS), processing_class=tokenizer()
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    theirs = trainer.compute_loss(trainer.model, dict(inputs))
    theirs.backward()

    ids = inputs["input_ids"]
    labels = ids.masked_fill(inputs["completion_mask"] == 0, -100)
    assert (labels != -100).sum() > 20
    # TRL puts the chosen rows first; ours stand beside each other, and are shifted.
    batch = {
        "input_ids": torch.stack(ids[:, :-1].chunk(2), 1),
        "shift_labels": torch.stack(labels[:, 1:].chunk(2), 1),
    }
    objective = DPO(loss, beta=0.3)
    with torch.no_grad():
        logs = reference(**objective.inputs(batch)).logits.log_softmax(-1)
        targets = batch["shift_labels"].flatten(0, 1)
        each = logs.gather(-1, targets.clamp(min=0)[..., None])[..., 0].masked_fill(targets == -100, 0.0)
        batch["reference"] = each.sum(-1).view(-1, 2)
    total, _ = objective(ours, batch, 4)
    (total / 4).backward()
    assert total.item() / 4 == pytest.approx(theirs.item(), abs=1e-6, rel=1e-6)
    for (name, one), other in zip(ours.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
