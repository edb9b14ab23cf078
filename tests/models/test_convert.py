"""What is imported and exported computes the same, and a conversion that does not is never announced."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ironloom.errors import CheckpointError, ConfigError
from ironloom.models import Decoder, build_decoder
from ironloom.models.convert import export_model, exporting, import_model, importing, reload, verify
from ironloom.models.convert.families import FAMILIES, Family
from ironloom.models.convert.rules import Rule
from models.foreign import VARIANTS, VOCABULARY, edit, make
from models.twins import llama_shape, randomize, small

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The program that loads a folder again runs in this process: starting another takes seconds."""

    def run(command: list[str], **options: Any) -> Any:
        try:
            reload.main(*command[-2:])
        except Exception as error:
            return dataclasses.make_dataclass("Done", ["returncode", "stdout", "stderr"])(1, "", str(error))
        return dataclasses.make_dataclass("Done", ["returncode", "stdout", "stderr"])(0, capsys.readouterr().out, "")

    monkeypatch.setattr(verify.subprocess, "run", run)


def ids(length: int = 40) -> torch.Tensor:
    return torch.randint(VOCABULARY, (2, length), generator=torch.Generator().manual_seed(3))


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids()).logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_comes_in_and_goes_out(variant, tmp_path, here):
    """Imported logits equal transformers' own; exported weights and configuration are the original ones."""
    theirs = make(variant, tmp_path / "there", with_tokenizer=False)
    assert import_model(str(tmp_path / "there"), tmp_path / "here") < 1e-5
    ours = Decoder.from_pretrained(tmp_path / "here")
    with torch.no_grad():
        expected = theirs(ids()).logits
        torch.testing.assert_close(ours(ids()).logits, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    export_model(tmp_path / "here", tmp_path / "back")
    before, after = load_file(tmp_path / "there" / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    offset = variant == "gemma"  # norms are kept with one added, which rounds
    assert all(torch.allclose(before[name], after[name], atol=1e-6) if offset else before[name].equal(after[name]) for name in before)
    told = [json.loads((tmp_path / place / "config.json").read_text()) for place in ("there", "back")]
    for name in set(VARIANTS[variant][1]) | {"architectures", "model_type", "tie_word_embeddings", "rope_parameters"} & told[0].keys():
        assert told[0][name] == told[1][name], name
    assert torch.allclose(logits(tmp_path / "back"), expected, atol=1e-5 * expected.abs().max().item())


def test_a_sliding_window_of_the_decoder_is_that_of_mistral(tmp_path, here):
    """Tokens further back than the window are not seen, with and without padding, forward and backward."""
    theirs = make("mistral", tmp_path / "there", with_tokenizer=False)
    import_model(str(tmp_path / "there"), tmp_path / "here")
    ours, mask = Decoder.from_pretrained(tmp_path / "here"), torch.ones(2, 40, dtype=torch.long)
    mask[0, :11] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    for options in ({}, {"attention_mask": mask, "position_ids": positions}):
        mine, other = ours(ids(), **options).logits, theirs(ids(), **options).logits
        seen = mask.bool() if options else torch.ones(2, 40, dtype=torch.bool)
        torch.testing.assert_close(mine[seen], other[seen], atol=1e-4, rtol=1e-5)
        for model, found in ((ours, mine), (theirs, other)):
            model.zero_grad()
            found[seen].square().mean().backward()
        gradients = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            scale = gradients[name].grad.abs().max().item()
            torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-4 * scale, rtol=1e-4)
    changed = ids()
    changed[:, 3] = (changed[:, 3] + 1) % VOCABULARY
    with torch.no_grad():
        one, other = ours(ids()).logits, ours(changed).logits
    reach = 3 + 3 * (7 - 1)  # three layers, each six tokens back
    assert torch.equal(one[:, reach + 1 :], other[:, reach + 1 :])
    assert not torch.equal(one[:, reach], other[:, reach])


def test_half_precision_stays_half(tmp_path, here):
    make("llama", tmp_path / "there", dtype="bfloat16", with_tokenizer=False)
    import_model(str(tmp_path / "there"), tmp_path / "here")
    assert {tensor.dtype for tensor in load_file(tmp_path / "here" / "model.safetensors").values()} == {torch.bfloat16}
    export_model(tmp_path / "here", tmp_path / "same")
    export_model(tmp_path / "here", tmp_path / "wide", dtype="float32")
    for place, dtype in (("same", "bfloat16"), ("wide", "float32")):
        config = json.loads((tmp_path / place / "config.json").read_text())
        assert config["torch_dtype"] == config["dtype"] == dtype
        assert {str(tensor.dtype) for tensor in load_file(tmp_path / place / "model.safetensors").values()} == {f"torch.{dtype}"}


def test_an_export_may_round(tmp_path, here):
    make("gemma", tmp_path / "there", with_tokenizer=False)
    import_model(str(tmp_path / "there"), tmp_path / "here")
    export_model(tmp_path / "here", tmp_path / "narrow", dtype="bfloat16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "narrow" / "model.safetensors").values()} == {torch.bfloat16}


def test_shards_in_and_out(tmp_path, here):
    make("gpt2", tmp_path / "there", shard_size="20KB", with_tokenizer=False)
    assert len(list((tmp_path / "there").glob("model-*.safetensors"))) > 2
    import_model(str(tmp_path / "there"), tmp_path / "here", max_shard_bytes=30_000)
    export_model(tmp_path / "here", tmp_path / "back", max_shard_bytes=30_000)
    for place in ("here", "back"):
        assert len(list((tmp_path / place).glob("model-*.safetensors"))) > 2
        assert not (tmp_path / place / "model.safetensors").exists()


def test_what_goes_along(tmp_path, here):
    """Tokenizer, chat template, special tokens and generation settings are what transformers finds."""
    make("llama", tmp_path / "there")
    import_model(str(tmp_path / "there"), tmp_path / "here")
    assert Decoder.from_pretrained(tmp_path / "here").eos_token_id == 256
    export_model(tmp_path / "here", tmp_path / "back")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "back")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "iron"}], tokenize=False) == "iron"
    assert (tokenizer("loom")["input_ids"], tokenizer.eos_token_id) == (list(b"loom"), 256)
    settings = GenerationConfig.from_pretrained(tmp_path / "back")
    assert (settings.eos_token_id, settings.temperature, settings.do_sample) == ([256, 10], 0.7, True)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["eos_token_id"] == [256, 10]
    assert (config["rope_theta"], config["rope_scaling"], config["model_type"]) == (10000.0, None, "llama")
    assert not {"id2label", "_name_or_path"} & config.keys()


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({}, "gpt2"),
        ({"activation_type": "gelu_tanh", "untie_embed": True}, "gpt2"),
        ({"llama": True}, "llama"),
        ({"llama": True, "sliding_window": 5}, "mistral"),
        ({"llama": True, "attention_bias": "qkv"}, None),
        ({"llama": True, "attention_bias": "qkv", "head_dim": 8}, "qwen2"),
        ({"llama": True, "qk_norm": True, "sliding_window": 5, "sliding_window_layers": [1]}, "qwen3"),
        ({"llama": True, "embedding_scale": 32**0.5, "activation_type": "geglu_tanh", "untie_embed": False}, "gemma"),
        ({"post_ln": True}, None),
        ({"no_bias": True}, None),
        ({"positional_embedding": {"type": "none"}}, None),
        ({"llama": True, "positional_embedding": {"type": "rope", "offset": 3}}, None),
    ],
)
def test_a_model_that_was_trained_here_is_exported_as_the_family_it_is(changes, family, tmp_path, here):
    base = llama_shape().to_dict() if changes.pop("llama", False) else {"d_ffn": 48}
    model = build_decoder(small(**base | changes), 61, init_std=0.006, eos_token_id=5)  # small numbers, as at the start of training
    model.save_pretrained(tmp_path / "here")
    if family is None:
        with pytest.raises(ConfigError, match=r"no family of transformers computes what this decoder does: .* is the nearest, but for"):
            export_model(tmp_path / "here", tmp_path / "out")
        assert list(tmp_path.iterdir()) == [tmp_path / "here"]
        return
    export_model(tmp_path / "here", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["vocab_size"], config["eos_token_id"]) == (family, 61, 5)


# Damaged mappings


def damaged(family: Family, ours: str, change: Any) -> Family:
    rules = [change(rule) if rule.ours == ours else rule for rule in family.rules]
    return dataclasses.replace(family, rules=tuple(rule for rule in rules if rule is not None))


def swapped(rule: Rule) -> Rule:
    return dataclasses.replace(rule, part=((rule.part[0] + 1) % 3, 3))


OUTPUT = "model.layers.*.self_attn.o_proj.weight"
MUTANTS = {
    "transposed": ("llama", OUTPUT, lambda rule: dataclasses.replace(rule, transposed=True)),
    "transposed-back": ("gpt2", OUTPUT, lambda rule: dataclasses.replace(rule, transposed=False)),
    "dropped": ("llama", "model.layers.*.mlp.up_proj.weight", lambda rule: None),
    "dropped-bias": ("gpt2", "model.layers.*.mlp.up_proj.bias", lambda rule: None),
    "renamed": ("llama", "model.layers.*.self_attn.v_proj.weight", lambda rule: dataclasses.replace(rule, theirs="model.layers.*.v")),
    "exchanged": (
        "llama",
        "model.layers.*.input_layernorm.weight",
        lambda rule: dataclasses.replace(rule, theirs="model.layers.*.post_attention_layernorm.weight"),
    ),
    "other-part": ("gpt2", "model.layers.*.self_attn.q_proj.weight", swapped),
    "without-offset": ("gemma", "model.norm.weight", lambda rule: dataclasses.replace(rule, offset=0.0)),
    "untied": ("llama", "lm_head.weight", lambda rule: dataclasses.replace(rule, theirs=EMBEDDING)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_damaged_mapping_is_refused_in_both_directions(mutant, tmp_path, here, monkeypatch):
    variant, ours, change = MUTANTS[mutant]
    source = tmp_path / "there"
    if variant == "llama":
        make_square(source)
    else:
        make(variant, source, with_tokenizer=False)
    import_model(str(source), tmp_path / "good")
    monkeypatch.setitem(FAMILIES, variant, damaged(FAMILIES[variant], ours, change))
    with pytest.raises(CheckpointError):
        import_model(str(source), tmp_path / "in")
    with pytest.raises(CheckpointError):
        export_model(tmp_path / "good", tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".saving") or path.name in ("in", "out")]


def make_square(folder: Path) -> None:
    """A model of square matrices, so that no shape gives a damage away."""
    from transformers import LlamaConfig, LlamaForCausalLM

    values = VARIANTS["llama"][1] | {"head_dim": 8, "intermediate_size": 32, "num_key_value_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**values))
    randomize(model)
    model.save_pretrained(folder)


def test_a_mapping_that_cancels_itself_is_found_at_the_start_of_training(tmp_path, here, monkeypatch):
    """Weights of 0.006 leave small traces in the logits; the comparison is relative to them."""
    model = build_decoder(small(**llama_shape().to_dict() | {"head_dim": 8, "d_ffn": 32}), 61)
    model.save_pretrained(tmp_path / "here")
    monkeypatch.setitem(FAMILIES, "llama", damaged(FAMILIES["llama"], OUTPUT, MUTANTS["transposed"][2]))
    with pytest.raises(CheckpointError, match="logits differ by"):
        export_model(tmp_path / "here", tmp_path / "out")


def test_a_wrong_configuration_is_refused(tmp_path, here, monkeypatch):
    """Weights are right, but what is said of them is not."""
    make("llama3-tied", tmp_path / "there", with_tokenizer=False)
    import_model(str(tmp_path / "there"), tmp_path / "here")
    family, write = FAMILIES["llama"], exporting.hf_config
    for name, value in (("rms_norm_eps", 1e-3), ("tie_word_embeddings", False), ("rope_parameters", None), ("num_attention_heads", 2)):
        monkeypatch.setattr(
            exporting, "hf_config", lambda *args, name=name, value=value: write(*args) | {name: value, "rope_scaling": None}
        )
        with pytest.raises(CheckpointError):
            export_model(tmp_path / "here", tmp_path / "out")
    assert family is FAMILIES["llama"]
    monkeypatch.setattr(importing, "_probe", lambda model: verify.probe_decoder(shifted(model)))
    with pytest.raises(CheckpointError, match="logits differ"):
        import_model(str(tmp_path / "there"), tmp_path / "again")


def shifted(model: Decoder) -> Decoder:
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1.001)
    return model


# Damaged and impossible models


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt_neox"}, "a model of type 'gpt_neox' has no counterpart here; these have: gemma, gpt2, llama"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', which the built-in decoder does not have"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "positions are of rope_type 'yarn'"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantized"),
    ],
)
def test_a_model_that_the_decoder_cannot_be_is_refused_by_name(change, message, tmp_path, here):
    make("llama", tmp_path / "there", with_tokenizer=False)
    edit(tmp_path / "there" / "config.json", lambda content: content.update(change))
    with pytest.raises(ConfigError, match=message):
        import_model(str(tmp_path / "there"), tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_options_of_gpt2_that_change_its_attention_are_refused(tmp_path, here):
    make("gpt2", tmp_path / "there", with_tokenizer=False)
    edit(tmp_path / "there" / "config.json", lambda content: content.update(scale_attn_by_inverse_layer_idx=True))
    with pytest.raises(ConfigError, match="cannot follow this model's scale_attn_by_inverse_layer_idx True"):
        import_model(str(tmp_path / "there"), tmp_path / "here")


def drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.layers.1.mlp.up_proj.weight"]


def add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.3.mlp.up_proj.weight"] = torch.zeros(1)


def transpose(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].T.contiguous()


def untie(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors[EMBEDDING] + 1.0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, "missing: model.layers.1.mlp.up_proj.weight"),
        (add, "unexpected: model.layers.3.mlp.up_proj.weight"),
        (transpose, r"shape: model.layers.1.mlp.up_proj.weight is \[32, 48\]"),
        (untie, "says that lm_head.weight is the embedding .* but the files hold another matrix"),
    ],
)
def test_damaged_weights_are_refused_by_name(damage, message, tmp_path, here):
    make("llama3-tied", tmp_path / "there", with_tokenizer=False)
    path = tmp_path / "there" / "model.safetensors"
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        import_model(str(tmp_path / "there"), tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_older_files_leave_the_prefix_out_and_keep_masks(tmp_path, here):
    make("gpt2", tmp_path / "there", with_tokenizer=False)
    path = tmp_path / "there" / "model.safetensors"
    tensors = {name.removeprefix("transformer."): value for name, value in load_file(path).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(tensors, path, metadata={"format": "pt"})
    assert import_model(str(tmp_path / "there"), tmp_path / "here") < 1e-5


def test_a_tokenizer_that_is_larger_than_the_model_is_refused(tmp_path, here):
    make("llama", tmp_path / "there")
    import_model(str(tmp_path / "there"), tmp_path / "here")
    more = [{"id": number, "content": f"<{number}>"} for number in range(257, VOCABULARY + 1)]
    edit(
        tmp_path / "here" / "tokenizer.json",
        lambda content: content["added_tokens"].extend(content["added_tokens"][0] | each for each in more),
    )
    with pytest.raises(CheckpointError, match="tokenizer has the id"):
        export_model(tmp_path / "here", tmp_path / "out")


def test_nothing_is_overwritten(tmp_path, here):
    make("llama", tmp_path / "there")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "thesis.tex").write_text("years")
    with pytest.raises(ConfigError, match="here exists: give another folder with --output"):
        import_model(str(tmp_path / "there"), tmp_path / "here")
    assert (tmp_path / "here" / "thesis.tex").read_text() == "years"
