"""Overrides of configurations in code, and what is remembered of the values that they replace."""

import pytest

from ironloom.config import code
from ironloom.config.graph import Step
from ironloom.config.overrides import ORIGIN
from ironloom.errors import Origin

TEXT = """
from dataclasses import dataclass, field
from pathlib import Path
@dataclass
class Mine(DreamTrainerConfig):
    root: Path = Path("here")
    pair: tuple[int, int] = (1, 2)
    def validate(self):
        if self.seed == 13:
            raise ValueError("13 brings bad luck")
        print(self.root.name, self.pair)
config = Mine(
    seed=5,
    training_parameters=TrainingParameters(
        warmup_steps=9, train_steps_per_epoch=50),
)
"""


def arguments(graph):
    return graph.root["trainer_args"].kwargs


def test_fields_at_any_depth(write):
    graph = code.load(
        write(TEXT),
        ["seed=7", "training_parameters.n_epochs=3", "trainer_args.logging_steps=5", "model.config.d_model=64", "optimizer.lr=1e-2",
         "device_parameters.param_dtype=float32", "checkpoint_parameters={keep_top_k: 4}"],
    )  # fmt: skip
    args = arguments(graph)
    assert (args["seed"], args["max_steps"], args["logging_steps"], args["bf16"], args["save_total_limit"]) == (7, 150, 5, False, 4)
    assert graph.root["model"].kwargs["config"].kwargs["d_model"] == 64
    assert graph.root["optimizer"].kwargs["lr"] == 1e-2


def test_values_are_read_by_their_type(write, capsys):
    code.load(write(TEXT), ["root=there", "pair=[3, 4]"])
    assert "there (3, 4)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sed=3", "sed: unknown key of Mine (did you mean 'seed'?)"),
        ("n_epochs=3", "n_epochs belongs to training_parameters (write it as training_parameters.n_epochs)"),
        ("n_epoch=3", "did you mean 'training_parameters.n_epochs'?"),
        ("training_parameters.n_epoch=3", "unknown key of TrainingParameters (did you mean 'n_epochs'?)"),
        ("training_parameter.n_epochs=3", "training_parameter.n_epochs: unknown key of Mine (did you mean 'training_parameters'?)"),
        ("training_parameters.n_epochs=many", "training_parameters.n_epochs: expected a whole number, found 'many'"),
        ("training_parameters.warmup_steps=51", "the warm-up of 51 steps is longer than the run of 50"),
        ("training_parameters={n_epoch: 3}", "unknown key of TrainingParameters"),
        ("seed=13", "13 brings bad luck"),
        ("seed.x=13", "cannot be set: seed is 5, not settings"),
        ("pair=[3]", "pair: expected"),
        ("device_parameters.tensor_parallel=auto", "at most one size can be 'auto'"),
        ("trainer_args.logging_step=3", "trainer_args.logging_step"),
        ("optimzer.lr=3", "optimzer.lr: unknown key of Mine (did you mean 'optimizer'?)"),
    ],
)
def test_what_is_wrong_is_said_of_the_command_line(write, problems, override, said):
    if override.startswith("trainer_args"):
        from ironloom import config

        found = [str(problem) for problem in config.check(code.load(write(TEXT), [override]))]
    else:
        found = problems(write(TEXT), override)
    (problem,) = found
    assert said in problem


def test_several_are_told_together(write, problems):
    assert len(problems(write(TEXT), "sed=3", "seed=x", "training_parameters.n_epoch=3", "=3")) == 4


def test_what_stood_there_before_is_remembered(write):
    path = write(TEXT)
    graph = code.load(path, ["training_parameters.warmup_steps=8", "trainer_args.seed=11"])
    default = Origin("default", route="default")
    assert graph.origins["lr_scheduler", "warmup_steps"] == ORIGIN
    assert graph.earlier["lr_scheduler", "warmup_steps"] == [Step(50, default), Step(9, Origin(path, 16, 9))]
    assert graph.earlier["trainer_args", "seed"] == [Step(42, default), Step(5, Origin(path, 14, 5))]
    assert graph.keys["lr_scheduler", "warmup_steps"] == ("training_parameters.warmup_steps",)
    plain = code.load(path)
    assert plain.earlier["trainer_args", "seed"] == [Step(42, default)]
    assert ("trainer_args", "bf16") not in plain.earlier


def test_parts_of_the_default_model_and_data(write):
    path = write("config = DreamTrainerConfig()\n")
    graph = code.load(path, ["model.num_layers=2", "model.positional_embedding.base=5e3", "data.vocab_size=300"])
    shape = graph.root["model"].kwargs["config"].kwargs
    assert (shape["num_layers"], shape["d_model"], shape["positional_embedding"]["base"]) == (2, 256, 5e3)
    data = graph.root["data"].kwargs
    assert (data["vocab_size"], data["train_datasets"]) == (300, ["python-docs"])
    assert graph.origins["model", "config", "num_layers"] == graph.origins["data", "vocab_size"] == ORIGIN
    assert graph.origins["model", "config", "d_model"].route == "default"
    with pytest.raises(ValueError, match=r"model\.num_layers: expected a number of at least 1, found 0"):
        code.load(path, ["model.num_layers=0"])
    assert code.load(path, ["model.config.num_layers=3"]).root["model"].kwargs["config"].kwargs["num_layers"] == 3
