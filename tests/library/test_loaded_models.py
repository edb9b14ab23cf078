"""A model that exists already is trained by one line, in each of the three styles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ironloom import config
from ironloom.errors import CheckpointError, ConfigError, DataError, ResourceError
from ironloom.models import Decoder, load_pretrained
from ironloom.models.convert import export_model, exporting
from models.foreign import VOCABULARY, make
from models.twins import decoder, llama_shape
from tiny import losses

STYLES = {
    "groups.yaml": """
model: {name_or_path: there, max_seq_len: 32, precision: float32}
data: {train_datasets: [text.txt], splits: [0.8, 0.2, 0.0]}
optim: {max_lr: 1e-2, warmup_steps: 2}
trainer: {model_path: out, micro_batch_size: 4, gradient_accumulation_steps: 1, num_workers: 0, log_interval: 1, save_checkpoint_steps: 5}
operation: {train_steps: 5, test_samples: 4}
""",
    "template.yaml": """
-- extends 'trainers/trainer.yaml'
-- block data_definition
    !singleton:ironloom.data:PretrainData@data
        {train_datasets: [text.txt], splits: [0.8, 0.2, 0.0], tokenizer_type: gpt2, vocab_name_or_path: there, vocab_size: null,
         seq_length: 32, eval_samples: 100, test_samples: 4}
-- endblock data_definition
-- block model_definition
    !partial:ironloom.models:load_pretrained {name_or_path: there, vocab_size: 257, max_seq_len: 32}
-- endblock model_definition
-- block optimizer
    !partial:ironloom.optim:adamw {lr: 1e-2}
-- endblock optimizer
-- block lr_scheduler
    !partial:ironloom.optim:warmup_anneal {kind: cosine, warmup_steps: 2, total_steps: !var max_steps}
-- endblock lr_scheduler
-- block trainer_args
    output_dir: out
    max_steps: 5
    per_device_train_batch_size: 4
    seed: 1337
    logging_steps: 1
    max_grad_norm: 1.0
    save_steps: 5
-- endblock trainer_args
""",
    "code.py": """
from ironloom import DreamTrainerConfig
from ironloom.configs import CheckpointParameters, DataParameters, DeviceParameters, ModelConfig, TrainingParameters

config = DreamTrainerConfig(
    experiment="x",
    seed=1337,
    model=ModelConfig(name_or_path="there", max_seq_len=32, precision="float32"),
    data=DataParameters(train_datasets=["text.txt"], splits=[0.8, 0.2, 0.0]),
    training_parameters=TrainingParameters(
        n_epochs=1, train_steps_per_epoch=5, train_batch_size=4, gradient_clip_val=1.0, learning_rate=1e-2, min_lr=0.0, warmup_steps=2,
        log_every_n_steps=1, lr_scheduler="cosine", weight_decay=0.01,
    ),
    checkpoint_parameters=CheckpointParameters(root_dir="runs", checkpoint_every_n_steps=5),
    device_parameters=DeviceParameters(param_dtype="float32"),
)
""",
}


@pytest.fixture
def place(tmp_path: Path, small_text: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONLOOM_CACHE", str(small_text / "cache"))
    (tmp_path / "text.txt").write_text((small_text / "text.txt").read_text())
    for name, text in STYLES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def trained(path: str, *overrides: str) -> Any:
    graph = config.load(path, list(overrides))
    assert config.check(graph) == []
    trainer = config.build(graph)
    trainer.args.disable_tqdm = True
    trainer.train()
    return trainer


def test_three_styles_train_a_model_of_transformers_alike(place: Path) -> None:
    original = make("llama", place / "there")
    found = {name: losses(trained(name).state.log_history) for name in STYLES}
    assert len(found["groups.yaml"]) == 5
    assert found["template.yaml"] == found["groups.yaml"]
    assert found["code.py"] == found["groups.yaml"]
    samples = [config.build(config.load("groups.yaml")).train_dataset[index] for index in range(2)]
    batch = torch.as_tensor(samples[0]["input_ids"])[None]
    with torch.no_grad():
        assert load_pretrained("there").eval()(batch).logits.equal(original(batch).logits)


def test_what_is_trained_is_saved_as_transformers_saves_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("qwen2", place / "there", dtype="bfloat16")
    trainer = trained("groups.yaml")
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    trainer.save_model()
    loaded = AutoModelForCausalLM.from_pretrained("out", dtype=torch.float32)
    weights = dict(trainer.model.named_parameters())
    assert all(weights[name].equal(value) for name, value in loaded.named_parameters())
    assert AutoModelForCausalLM.from_pretrained("out").dtype is torch.float32
    assert (place / "out" / "tokenizer.json").is_file()
    monkeypatch.setattr(exporting, "verify", lambda *args: 0.0)  # proven in tests/models
    export_model(place / "out" / "checkpoints" / "checkpoint-5", place / "exported")
    assert load_file(place / "exported" / "model.safetensors").keys() == load_file(place / "there" / "model.safetensors").keys()


def test_from_scratch_takes_the_shape_alone(place: Path) -> None:
    """The same seed draws the same weights, and they are not those in the folder."""
    original = make("llama", place / "there")
    first, second = (trained("groups.yaml", "model.from_scratch=true", f"trainer.model_path={name}") for name in ("a", "b"))
    assert losses(first.state.log_history) == losses(second.state.log_history)
    other = trained("groups.yaml", "model.from_scratch=true", "trainer.model_path=c", "init.seed=5")
    assert losses(other.state.log_history) != losses(first.state.log_history)
    fresh = load_pretrained("there", from_scratch=True)
    assert fresh.config.hidden_size == original.config.hidden_size
    assert not fresh.model.layers[0].mlp.up_proj.weight.equal(original.model.layers[0].mlp.up_proj.weight)
    (place / "there" / "model.safetensors").unlink()
    load_pretrained("there", from_scratch=True)


def test_a_decoder_of_ours_goes_on(place: Path) -> None:
    make("llama", place / "tokenizer")
    first = decoder(llama_shape(), seed=3)
    ours = Decoder(first.config.settings, VOCABULARY)
    ours.save_pretrained(place / "there")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (place / "there" / name).write_bytes((place / "tokenizer" / name).read_bytes())
    trainer = trained("groups.yaml")
    assert isinstance(trainer.model, Decoder)
    assert len(losses(trainer.state.log_history)) == 5
    with pytest.raises(ConfigError, match="from_scratch: is for models of transformers"):
        trained("groups.yaml", "model.from_scratch=true", "trainer.model_path=again")


def test_the_graph_says_what_the_group_says(place: Path) -> None:
    make("llama", place / "there")
    graph = config.load("groups.yaml")
    mine, other = (each.root["model"].kwargs for each in (graph, config.load("code.py")))
    assert {name: mine[name] for name in mine if name != "vocab_size"} == {name: other[name] for name in other if name != "vocab_size"}
    assert graph.root["data"].kwargs["vocab_name_or_path"] == "there"
    assert config.load("groups.yaml", ["model.vocab_name_or_path=other"]).root["data"].kwargs["vocab_name_or_path"] == "other"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_layers=2", "model.num_layers: has no effect with name_or_path: that model has its own"),  # even at its default
        ("model.d_model=64", "model.d_model: has no effect with name_or_path"),
        ("model.positional_embedding={type: rope}", "model.positional_embedding: has no effect with name_or_path"),
        ("init.init_std=0.1", "init.init_std: has no effect with model.name_or_path"),
        ("trainer.vocab_padding_unit=1", "trainer.vocab_padding_unit: has no effect"),
        ("model.name_or_path=./nowhere", "model.name_or_path: there is no folder './nowhere'"),
        ("model.name_or_path=text.txt", "there is no folder 'text.txt'"),
        ("model.name_or_path=empty", "'empty' has no config.json"),
        ("model.name_or_path=adapter", "'adapter' holds an adapter (make a model of it: ironloom model merge adapter)"),
    ],
)
def test_what_does_not_go_with_a_loaded_model_is_refused_before_it_is_loaded(place, override, message):
    for folder, file in (("there", "config.json"), ("empty", "other.json"), ("adapter", "adapter_config.json")):
        (place / folder).mkdir()
        (place / folder / file).write_text("{}")
    with pytest.raises(ConfigError) as caught:
        config.load("groups.yaml", [override])
    assert message in str(caught.value)


def test_a_model_that_does_not_fit_is_refused_by_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("gpt2", place / "there", with_tokenizer=False)
    with pytest.raises(DataError, match="the tokenizer has 50,257 ids, the model in there only 263"):
        load_pretrained("there", vocab_size=50257)
    with pytest.raises(ConfigError, match="max_seq_len: 512 is more than the 64 positions of there"):
        load_pretrained("there", max_seq_len=512)
    (place / "there" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="transformers cannot load the model in there"):
        load_pretrained("there")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ResourceError, match="without a network: download the model elsewhere"):
        load_pretrained("nobody/nothing")
