"""Loading and training small runs of the template library."""

import pathlib

import pytest

from ironloom import config

SEED = pathlib.Path(__file__).parent / "seed"
#: What makes a run of the library take a moment.
SMALL = [
    "model.config.num_layers=1",
    "model.config.d_model=16",
    "model.config.d_ffn=32",
    "model.config.num_attention_heads=2",
    "model.config.head_dim=8",
    "data.vocab_size=300",
    "data.eval_samples=4",
    "seq_length=16",
    "trainer_args.per_device_train_batch_size=4",
    "trainer_args.per_device_eval_batch_size=4",
    "trainer_args.disable_tqdm=true",
]


@pytest.fixture(scope="session")
def small_text(tmp_path_factory):
    """A text to train on, and a cache for what is made of it."""
    folder = tmp_path_factory.mktemp("data")
    words = [
        f"{verb} the {noun} {number}" for number in range(60) for verb in ("see", "take", "leave") for noun in ("house", "tree", "road")
    ]
    (folder / "text.txt").write_text("\n".join(words))
    return folder


@pytest.fixture
def write(tmp_path):
    """Write configurations by name; returns the path of the first."""

    def write(text, name="run.yaml", **others):
        for file, content in {name: text, **others}.items():
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return str(tmp_path / name)

    return write


@pytest.fixture
def seed():
    """The text of one of the specification's examples."""
    return lambda name: (SEED / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.fixture
def load(small_text, tmp_path, monkeypatch):
    """Load a configuration, small; it must have no problem."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONLOOM_CACHE", str(small_text / "cache"))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def load(path, *overrides):
        graph = config.load(path, [*SMALL, f"data.train_datasets=[{small_text / 'text.txt'}]", *overrides])
        assert config.check(graph) == []
        return graph

    return load


@pytest.fixture
def train(load):
    """Train a configuration, small and for a few steps; returns the trainer."""

    def train(path, *overrides):
        overrides = (
            overrides if any(word.startswith("trainer_args.max_steps") for word in overrides) else (*overrides, "trainer_args.max_steps=2")
        )
        trainer = config.build(load(path, *overrides))
        trainer.train()
        assert pathlib.Path(trainer.args.output_dir).is_dir()
        return trainer

    return train
