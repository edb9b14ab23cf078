"""Training from Python, as from any other style."""

import json
import pathlib
import subprocess
import sys

import pytest

from ironloom.cli import main

MODEL = """dict(num_layers=1, d_model=32, d_ffn=64, num_attention_heads=2, head_dim=16, max_seq_len=32, precision="float32",
    tokenizer_type="byte", vocab_name_or_path=None, dropout_embd=0.0, dropout_attn=0.0, dropout_mlp=0.0)"""
BASIC = f"""
config = DreamTrainerConfig(
    project="my-project",
    group="experiments",
    experiment="run-001",
    model=ModelConfig(**{MODEL}),
    data=DataParameters(train_datasets=["text.txt"], splits=[0.8, 0.2, 0.0]),
    training_parameters=TrainingParameters(
        n_epochs=2, train_batch_size=8, val_frequency=0.5, num_sanity_val_steps=2, log_every_n_steps=1, val_steps_per_epoch=2,
    ),
    checkpoint_parameters=CheckpointParameters(root_dir="runs", monitor="val_loss", keep_top_k=2, resume_mode="best"),
)
"""
GROUPS = f"""
model: {MODEL.removeprefix("dict(").removesuffix(")").replace("=", ": ").join("{}").replace("None", "null")}
data: {{train_datasets: [text.txt], splits: [0.8, 0.2, 0.0]}}
init: {{seed: 42, init_std: 0.02}}
optim: {{max_lr: 2e-3, min_lr: 2e-4, warmup_steps: 0, weight_decay: 0.1}}
trainer: {{model_path: runs/grouped, micro_batch_size: 8, do_eval: true, log_interval: 1, num_workers: 0, save_checkpoint_steps: 4}}
operation: {{train_steps: 8, eval_interval: 4, eval_samples: 16}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with some text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("".join(f"line {number} of a short text\n" for number in range(60)))
    return tmp_path


def run(*words):
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return end.value.code


def records(folder):
    return [json.loads(line) for line in (pathlib.Path(folder) / "logs" / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    return [record["loss"] for record in records(folder) if "loss" in record]


def test_a_configuration_in_code_trains_and_its_run_file_repeats_it(write, capsys):
    path = write(BASIC)
    assert run("check", path) == 0
    assert run("train", path) == 0
    output = pathlib.Path("runs/my-project/experiments/run-001")
    found = losses(output)
    steps = len(found)
    assert steps % 2 == 0 and found[-1] < found[0]
    # Two epochs, evaluated at every half.
    evaluated = [record["step"] for record in records(output) if "eval_loss" in record]
    assert evaluated == [step for step in range(steps + 1) if step % round(steps / 4) == 0 or step == steps]
    assert (output / "model.safetensors").is_file()
    (output / "run.yaml").rename("again.yaml")
    assert run("train", "again.yaml", "trainer_args.output_dir=runs/my-project/again") == 0
    assert losses("runs/my-project/again") == found


def test_the_same_run_in_groups_has_the_same_losses(write, folder):
    (folder / "grouped.yaml").write_text(GROUPS)
    text = BASIC.replace("n_epochs=2", "n_epochs=2, train_steps_per_epoch=4").replace("val_frequency=0.5, num_sanity_val_steps=2", "")
    text = text.replace("log_every_n_steps=1, val", "log_every_n_steps=1, warmup_steps=0, val").replace(", train_batch_size=8, ,", ",")
    text = text.replace('monitor="val_loss", keep_top_k=2, resume_mode="best"', "")
    assert run("train", write(text)) == 0
    assert run("train", "grouped.yaml") == 0
    mine, theirs = losses("runs/my-project/experiments/run-001"), losses("runs/grouped")
    assert len(mine) == 8
    assert mine == theirs


def test_mistakes_end_with_code_2_and_no_trace(write, capsys):
    path = write(BASIC.replace("n_epochs", "n_epoch"))
    assert run("train", path) == 2
    assert run("check", path.replace("config.py", "nothing.py")) == 2
    err = capsys.readouterr().err
    assert f"{path}:11:9: n_epoch: unknown key of TrainingParameters (did you mean 'n_epochs'?)" in err
    assert "Traceback" not in err


def test_the_best_checkpoint_is_gone_on_from(write):
    path = write(BASIC)
    assert run("train", path) == 0
    trained = len(losses("runs/my-project/experiments/run-001"))
    assert run("train", path, "training_parameters.n_epochs=3") == 0
    assert len(losses("runs/my-project/experiments/run-001")) > trained


OWN = """
import torch
from net_beside_it import Net

class Numbers:
    def __init__(self, size): self.size = size
    def __len__(self): return self.size
    def __getitem__(self, index):
        ids = torch.arange(index, index + 8) % 50
        return {"input_ids": ids, "labels": ids, "text": "not a column of the model"}

config = DreamTrainerConfig(
    experiment="own", model=Net, train_dataset=partial(Numbers, 16), eval_dataset=partial(Numbers, 8),
    optimizer=partial(torch.optim.AdamW, lr=1e-2), training_parameters=TrainingParameters(n_epochs=2, num_workers=1, log_every_n_steps=1),
)
"""
NET = """
import torch
import number_beside_it

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = torch.nn.Embedding(50, number_beside_it.WIDTH), torch.nn.Linear(number_beside_it.WIDTH, 50)
    def forward(self, input_ids):
        return self.out(self.embed(input_ids))
"""


def test_models_and_data_of_the_users_own_are_found_again_from_anywhere(write, folder, monkeypatch):
    (folder / "a place").mkdir()
    (folder / "a place" / "net_beside_it.py").write_text(NET)
    (folder / "a place" / "number_beside_it.py").write_text("WIDTH = 8\n")
    path = write(OWN, "a place/my config.py")
    assert run("train", path) == 0
    found = losses("output/own")
    assert len(found) == 4 and found[-1] < found[0]
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    program = "import sys; from ironloom.cli import main; main(sys.argv[1:])"
    words = ["-c", program, "train", str(folder / "output/own/run.yaml"), "trainer_args.output_dir=again"]
    subprocess.run([sys.executable, *words], check=True, cwd=elsewhere, timeout=120)
    assert losses(elsewhere / "again") == found
