"""Weights in the Hugging Face layout: written so that others read them, read strictly."""

import json

import pytest
import safetensors.torch
import torch
from torch import nn

from ironloom.errors import CheckpointError
from ironloom.weights import INDEX, SINGLE, load_weights, save_weights


class Model(nn.Module):
    def __init__(self, tie=False, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(8, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.register_buffer("counts", torch.arange(3) + seed)
        if tie:
            self.head.weight = self.embed.weight


def equal(left, right):
    right = right.state_dict()
    return all(torch.equal(value, right[name]) for name, value in left.state_dict().items())


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 150, 1])
def test_weights_come_back_in_place(tmp_path, tie, max_shard_bytes):
    model, other = Model(tie), Model(tie, seed=1)
    written = save_weights(model.state_dict(), tmp_path, max_shard_bytes=max_shard_bytes)
    assert sorted(path.name for path in written) == listing(tmp_path)
    assert (SINGLE in listing(tmp_path)) == (max_shard_bytes == 10**9)
    memory = {name: value.data_ptr() for name, value in other.state_dict().items()}
    load_weights(tmp_path, other)
    assert equal(model, other)
    assert memory == {name: value.data_ptr() for name, value in other.state_dict().items()}
    assert all(parameter.requires_grad for parameter in other.parameters())


def test_shards_have_an_index_as_others_expect(tmp_path):
    model = Model()
    save_weights(model.state_dict(), tmp_path, max_shard_bytes=150)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in model.state_dict().values())
    assert set(index["weight_map"]) == set(model.state_dict())
    shards = sorted(set(index["weight_map"].values()))
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    for name in shards:
        with safetensors.safe_open(tmp_path / name, "pt") as file:
            assert file.metadata()["format"] == "pt"
            assert sum(file.get_tensor(key).nbytes for key in file.keys()) <= 150  # noqa: SIM118


def test_tied_weights_are_stored_once_and_any_model_of_the_shape_can_have_them(tmp_path):
    model = Model(tie=True)
    save_weights(model.state_dict(), tmp_path)
    assert "head.weight" not in safetensors.torch.load_file(tmp_path / SINGLE)
    untied = Model(tie=False, seed=1)
    load_weights(tmp_path, untied)
    assert equal(model, untied)
    other = Model(tie=True, seed=2)
    assert safetensors.torch.load_model(other, tmp_path / SINGLE) == (set(), [])
    assert equal(model, other)


def test_a_tied_model_refuses_two_different_values(tmp_path):
    save_weights(Model(tie=False).state_dict(), tmp_path)
    with pytest.raises(CheckpointError, match=r"embed\.weight and head.weight are one tensor"):
        load_weights(tmp_path, Model(tie=True))
    model = Model(tie=False)
    model.head.weight.data.copy_(model.embed.weight)
    save_weights(model.state_dict(), tmp_path)
    other = Model(tie=True, seed=1)
    load_weights(tmp_path, other)
    assert equal(model, other)


def test_views_of_one_storage_are_stored_by_value(tmp_path):
    fused = torch.arange(24.0).reshape(6, 4)
    save_weights({"q": fused[:2], "k": fused[2:4], "t": fused.T, "fused": fused}, tmp_path)
    loaded = safetensors.torch.load_file(tmp_path / SINGLE)
    assert torch.equal(loaded["k"], fused[2:4])
    assert torch.equal(loaded["t"], fused.T)


def test_every_misfit_is_named_and_nothing_is_changed(tmp_path):
    tensors = dict(Model().state_dict())
    del tensors["body.bias"]
    tensors["extra"] = torch.zeros(1)
    tensors["body.weight"] = torch.zeros(4, 5)
    tensors["counts"] = torch.zeros(3)
    save_weights(tensors, tmp_path)
    model, before = Model(seed=1), Model(seed=1)
    with pytest.raises(CheckpointError) as error:
        load_weights(tmp_path, model)
    for words in (
        "missing: body.bias",
        "unexpected: extra",
        "body.weight is [4, 5] in the files, [4, 4]",
        "counts is floating-point",
    ):
        assert words in str(error.value)
    assert equal(before, model)


def test_an_alias_without_its_partner_is_missing(tmp_path):
    tensors = Model().state_dict()
    del tensors["head.weight"]
    save_weights(tensors, tmp_path)
    load_weights(tmp_path, Model(tie=True))
    with pytest.raises(CheckpointError, match=r"missing: head\.weight"):
        load_weights(tmp_path, Model(tie=False))


def test_precision_is_converted(tmp_path):
    save_weights(Model().to(torch.bfloat16).state_dict(), tmp_path)
    model = Model(seed=1)
    load_weights(tmp_path, model)
    assert model.body.weight.dtype == torch.float32
    assert torch.equal(model.body.weight, Model().body.weight.bfloat16().float())


def test_saving_again_leaves_no_weights_of_before(tmp_path):
    for max_shard_bytes in (150, 10**9, 50, 150):
        model = Model(seed=max_shard_bytes % 97)
        written = save_weights(model.state_dict(), tmp_path, max_shard_bytes=max_shard_bytes)
        assert listing(tmp_path) == sorted(path.name for path in written)
        other = Model(seed=3)
        load_weights(tmp_path, other)
        assert equal(model, other)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "last.ckpt"])
def test_pickled_weights_are_refused_by_name(tmp_path, name):
    torch.save(Model().state_dict(), tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{name}.*runs code"):
        load_weights(tmp_path, Model())


def test_no_weights_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no weights"):
        load_weights(tmp_path, Model())


@pytest.mark.parametrize("name", ["../evil.safetensors", "/tmp/evil.safetensors", "sub/evil.safetensors", "evil.bin", "..", 3, None])
def test_an_index_cannot_lead_elsewhere(tmp_path, name):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for target in (tmp_path, folder / "sub"):
        safetensors.torch.save_file(dict(Model().state_dict()), target / "evil.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(Model().state_dict(), name)}))
    with pytest.raises(CheckpointError, match="no safetensors file in this folder"):
        load_weights(folder, Model())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_malformed_index_is_an_error(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match="index"):
        load_weights(tmp_path, Model())


def test_a_missing_or_cut_shard_is_an_error_that_names_it(tmp_path):
    save_weights(Model().state_dict(), tmp_path, max_shard_bytes=150)
    shard = sorted(tmp_path.glob("model-*"))[0]
    data = shard.read_bytes()
    for damaged in (data[:-1], data[:4], b""):
        shard.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=shard.name):
            load_weights(tmp_path, Model())
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        load_weights(tmp_path, Model())


def test_what_is_no_weight_is_refused_by_name(tmp_path):
    for value in (3, torch.empty(1, device="meta"), torch.zeros(1, dtype=torch.complex64)):
        with pytest.raises(TypeError, match="odd"):
            save_weights({"odd": value}, tmp_path)
    assert listing(tmp_path) == []


def test_a_module_without_memory_is_refused(tmp_path):
    save_weights(Model().state_dict(), tmp_path)
    with torch.device("meta"):
        model = Model()
    with pytest.raises(ValueError, match="meta"):
        load_weights(tmp_path, model)
    model = Model()
    model.register_state_dict_post_hook(lambda module, state, prefix, local: state.update(counts=state["counts"].clone()))
    with pytest.raises(ValueError, match=r"copies.*counts"):
        load_weights(tmp_path, model)


class TestTransformers:
    """Folders that ``save_pretrained`` wrote, and folders that ``from_pretrained`` reads."""

    @staticmethod
    def new(kind, tie, seed):
        import transformers

        torch.manual_seed(seed)
        if kind == "gpt2":
            return transformers.GPT2LMHeadModel(
                transformers.GPT2Config(vocab_size=40, n_embd=8, n_layer=2, n_head=2, n_positions=16, tie_word_embeddings=tie)
            )
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=40, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=tie,
            )
        )  # fmt: skip

    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    @pytest.mark.parametrize("tie", [True, False])
    @pytest.mark.parametrize("max_shard_size", ["1GB", "1KB"])
    def test_theirs_are_read(self, tmp_path, kind, tie, max_shard_size):
        model, other = self.new(kind, tie, 0), self.new(kind, tie, 1)
        model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
        assert (INDEX in listing(tmp_path)) == (max_shard_size == "1KB")
        load_weights(tmp_path, other)
        assert equal(model, other)

    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    @pytest.mark.parametrize("tie", [True, False])
    @pytest.mark.parametrize("max_shard_bytes", [10**9, 1000])
    def test_ours_are_read(self, tmp_path, kind, tie, max_shard_bytes):
        model = self.new(kind, tie, 0)
        model.config.save_pretrained(tmp_path)
        save_weights(model.state_dict(), tmp_path, max_shard_bytes=max_shard_bytes)
        assert equal(model, type(model).from_pretrained(tmp_path))
