"""Documents that share a row: how they are packed, what keeps them apart, and for which task each key counts."""

import pytest

from config.grouped import DATA, problems
from ironloom import config
from ironloom.config import groups
from ironloom.config.groups import presets
from ironloom.settings.model import DOCUMENTS, ModelConfig

BEST_FIT, SFT, DPO = "data.packing=best_fit", "data.task_type=sft", "data.task_type=dpo"
DEFAULTS = {name: getattr(ModelConfig(), name) for name in DOCUMENTS}


def arguments(path, *overrides):
    """Arguments of the data and of the collator."""
    graph = config.load(path, overrides)
    assert config.check(graph) == []
    return graph.root["data"].kwargs, graph.root["main"].kwargs["data_collator"]


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_what_keeps_texts_apart_reaches_data_and_collator(write, name, packing):
    value = not DEFAULTS[name]
    data, collator = arguments(write(DATA), f"data.packing={packing}", f"model.{name}={str(value).lower()}")
    assert {key: data[key] for key in DOCUMENTS} == {**DEFAULTS, name: value}
    assert data["packing"] == packing
    expected = {key: data[key] for key in DOCUMENTS[:2]}
    assert {key: found for key, found in collator.kwargs.items() if key in DOCUMENTS} == expected
    assert collator.target == f"ironloom.data:collate_{'rows' if packing == 'best_fit' else 'blocks'}"


def test_of_texts_that_are_one_run_the_collator_is_told_nothing(write):
    data, collator = arguments(write(DATA), *(f"model.{name}=false" for name in DOCUMENTS[:2]))
    assert {data[name] for name in DOCUMENTS} == {False}
    assert not {*collator.kwargs} & {*DOCUMENTS}


def test_packed_rows_are_filled_up_to_the_sequence_length(write):
    path = write(DATA)
    for task in ("data.task_type=pretrain", SFT):
        _, collator = arguments(path, task, BEST_FIT)
        assert collator.kwargs["length"].args[1] == "seq_length"
        assert collator.kwargs["pad_token_id"].args[1] == "pad_token_id"
    assert arguments(path, SFT)[1].kwargs["length"] is None
    assert arguments(path, SFT, "data.packing=none")[0]["packing"] == "none"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([DPO, BEST_FIT], "data.packing: has no effect on dpo (it belongs to data.task_type: pretrain or sft)"),
        (["data.packing=none"], "data.packing: texts are packed in some way (choose concat or best_fit)"),
        ([SFT, "data.packing=concat"], "data.packing: would cut conversations (choose best_fit or none)"),
        ([SFT, BEST_FIT, "data.pad_to_max_length=true"], "data.pad_to_max_length: has no effect with packing: best_fit"),
        ([SFT, "model.reset_attention_mask=true"], "model.reset_attention_mask: has no effect: no two documents share a row"),
        ([SFT, "model.reset_position_ids=false"], "set data.packing: best_fit"),
        (
            [DPO, "model.reset_position_ids=true"],
            "model.reset_position_ids: has no effect: no two documents share a row (leave the key out)",
        ),
        ([SFT, BEST_FIT, "model.reset_attention_mask=false"], "model.reset_attention_mask: conversations that share a row are kept apart"),
        ([SFT, BEST_FIT, "model.eod_mask_loss=true"], "model.eod_mask_loss: has no effect on sft: where an answer ends"),
        ([DPO, "model.eod_mask_loss=true"], "model.eod_mask_loss: has no effect on dpo: where an answer ends"),
    ],
)
def test_what_has_no_effect_is_refused_by_name(write, overrides, message):
    (problem,) = problems(write(DATA), overrides)
    assert message in problem


def test_conversations_that_share_a_row_are_kept_apart_whatever_a_preset_of_the_model_says(write):
    path = write(DATA)
    for preset in ("gpt2", "gpt2-medium"):
        for packing in ("none", "best_fit"):
            _, collator = arguments(path, SFT, f"data.packing={packing}", f"model={preset}")
            assert not set(collator.kwargs) & set(DOCUMENTS)
    assert config.check(config.load(path, [SFT, BEST_FIT, "model.reset_position_ids=true"])) == []


def test_presets_of_models_say_what_the_specification_s_say(write):
    """The reference: off in gpt2, gpt2-small and llama, on in the larger ones."""
    said = {}
    for file in sorted((presets.LIBRARY / "model").glob("*.yaml")):
        data = groups.load(write(f"model: {file.stem}\n{DATA}")).root["data"].kwargs
        assert not data["eod_mask_loss"]
        assert data["reset_position_ids"] == data["reset_attention_mask"]
        said[file.stem] = data["reset_position_ids"]
    on = {"gpt2-medium", "gpt2-large", "gpt2-xl"}
    assert said == {name: name in on if name != "gpt3" else DEFAULTS["reset_position_ids"] for name in said}
    assert len(said) == 8


def test_a_loaded_model_keeps_documents_apart_too(write):
    data, _ = arguments(
        write(DATA), "model.name_or_path=somebody/model", "model.reset_attention_mask=true", "model.reset_position_ids=true"
    )
    assert (data["reset_attention_mask"], data["reset_position_ids"]) == (True, True)
