"""A saved model comes back bit for bit, and a damaged one is refused by name."""

from __future__ import annotations

import json
import pickle
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

from ironloom.errors import CheckpointError
from ironloom.models import Decoder
from ironloom.models.files import load_model
from models.twins import VOCABULARY, decoder, gpt2_twins, llama_shape, llama_twins, small, tokens

WEIGHTS = "model.safetensors"


@pytest.fixture
def saved(tmp_path):
    decoder(llama_shape()).save_pretrained(tmp_path)
    return tmp_path


def rewrite(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("config", [small(), llama_shape(), small(post_ln=True, positional_embedding={"type": "none"})])
def test_a_round_trip_changes_no_bit(config, tmp_path):
    model = decoder(config, padded_vocab_size=64, eos_token_id=5)
    model.save_pretrained(tmp_path / "model")
    loaded = Decoder.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    assert loaded.eos_token_id == 5
    assert not loaded.training
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)
    assert isinstance(load_model(tmp_path / "model"), Decoder)


def test_what_the_files_say(tmp_path):
    model = decoder(small(), padded_vocab_size=64)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "ironloom"
    assert config["architectures"] == ["Decoder"]
    assert (config["vocab_size"], config["padded_vocab_size"], config["eos_token_id"]) == (VOCABULARY, 64, None)
    assert config["torch_dtype"] == "float32"
    assert config["positional_embedding"]["type"] == "absolute"
    tensors = load_file(tmp_path / WEIGHTS)
    assert tensors.keys() == dict(model.named_parameters()).keys()
    assert (tmp_path / WEIGHTS).stat().st_size < 4 * sum(value.numel() for value in model.parameters()) + 4096


def test_a_checkpoint_that_writes_the_parts_itself_is_a_model_too(tmp_path):
    model = decoder(llama_shape())
    model.config.save_pretrained(tmp_path)
    save_file(model.state_dict(), tmp_path / WEIGHTS)
    assert torch.equal(load_model(tmp_path)(tokens()).logits, model(tokens()).logits)


def test_the_loaded_model_does_not_live_in_the_file(saved):
    model = Decoder.from_pretrained(saved)
    before = model(tokens()).logits
    with (saved / WEIGHTS).open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    assert torch.equal(model(tokens()).logits, before)


def test_shards_are_read_through_their_index(saved):
    expected = Decoder.from_pretrained(saved)
    tensors = load_file(saved / WEIGHTS)
    names = list(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for part, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, saved / part)
    index = {"weight_map": {key: part for part, keys in parts.items() for key in keys}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    (saved / WEIGHTS).unlink()
    assert torch.equal(Decoder.from_pretrained(saved)(tokens()).logits, expected(tokens()).logits)
    (saved / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors is missing"):
        Decoder.from_pretrained(saved)
    expected.save_pretrained(saved)
    assert torch.equal(Decoder.from_pretrained(saved)(tokens()).logits, expected(tokens()).logits)


def test_an_index_cannot_lead_elsewhere(saved):
    (saved / WEIGHTS).unlink()
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../other.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"'\.\./other\.safetensors', which is no safetensors file in this folder"):
        Decoder.from_pretrained(saved)


def test_a_folder_without_a_model_is_named(tmp_path):
    for load in (load_model, Decoder.from_pretrained):
        with pytest.raises(CheckpointError, match=r"config\.json is missing"):
            load(tmp_path / "nowhere")


def test_missing_weights_are_named(saved):
    (saved / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"has no weights: neither model\.safetensors nor"):
        load_model(saved)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_an_unreadable_configuration_is_named(saved, content):
    (saved / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_modle": 3}, "did you mean 'd_model'"),
        ({"d_model": "wide"}, "d_model: expected a whole number"),
        ({"head_dim": 7}, "must be even"),
        ({"vocab_size": "61"}, "expected whole numbers"),
        ({"vocab_size": None}, "expected whole numbers"),
        ({"padded_vocab_size": 3}, "does not fit into 3 rows"),
        ({"model_type": "llama"}, "model of type 'llama'"),
    ],
)
def test_a_wrong_configuration_is_named(saved, change, message):
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError) as caught:
        Decoder.from_pretrained(saved)
    assert message in str(caught.value)


def test_a_missing_setting_is_named(saved):
    path = saved / "config.json"
    content = json.loads(path.read_text())
    del content["ln_eps"], content["vocab_size"]
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"missing keys: ln_eps, vocab_size"):
        Decoder.from_pretrained(saved)


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_a_truncated_file_is_named(saved, size):
    path = saved / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_model(saved)


def test_every_tensor_that_does_not_fit_is_named(saved):
    def change(tensors):
        tensors["model.surprise"] = tensors.pop("model.norm.weight")
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:, :-1].contiguous()

    rewrite(saved / WEIGHTS, change)
    with pytest.raises(CheckpointError) as caught:
        load_model(saved)
    misfits = (
        "missing: model.norm.weight",
        "unexpected: model.surprise",
        "lm_head.weight is [61, 31] in the files, [61, 32] in the model",
    )
    for part in misfits:
        assert part in str(caught.value)


def test_a_failed_save_leaves_the_earlier_weights(saved):
    before = (saved / WEIGHTS).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large.*model\.safetensors"):
            decoder(llama_shape(), seed=1).save_pretrained(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (saved / WEIGHTS).read_bytes() == before
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", WEIGHTS]


def test_others_may_read_what_the_umask_lets_them(saved):
    assert (saved / WEIGHTS).stat().st_mode == (saved / "config.json").stat().st_mode


@pytest.mark.parametrize("twins", [llama_twins, gpt2_twins])
def test_models_of_transformers_load_too(tmp_path, twins):
    _, theirs = twins()
    theirs.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is type(theirs)
    assert torch.equal(loaded(tokens()).logits, theirs(tokens()).logits)


def test_a_transformers_model_with_a_hole_is_refused(tmp_path):
    _, theirs = llama_twins()
    theirs.save_pretrained(tmp_path)
    rewrite(tmp_path / WEIGHTS, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        load_model(tmp_path)


class Payload:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def test_a_pickle_is_never_opened(tmp_path):
    _, theirs = llama_twins()
    folder = tmp_path / "model"
    theirs.save_pretrained(folder)
    (folder / WEIGHTS).unlink()
    mark = tmp_path / "mark"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(CheckpointError, match=r"cannot load the model"):
        load_model(folder)
    assert not mark.exists()
