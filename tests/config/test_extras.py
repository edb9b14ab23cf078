"""A package that is not installed is a mistake that check finds, not one that stops a run."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from ironloom.config import Graph, Node, check

DATA = {"train_datasets": ["a.txt"], "vocab_name_or_path": "name", "vocab_size": None, "seq_length": 8}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have a package look as if it were not installed, and every other one as if it were."""
    found = importlib.util.find_spec("json")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: find(name, *rest) or found)

    def hide(package: str) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))

    return hide


@pytest.mark.parametrize(
    ("node", "package", "path"),
    [
        (Node("ironloom.callbacks:TBLogger", kwargs={"summary_writer": "boards"}), "tensorboard", "main"),
        (Node("torch.utils.tensorboard:SummaryWriter", args=("boards",)), "tensorboard", "main"),
        (Node("ironloom.callbacks:MLflowLogger"), "mlflow", "main"),
        (Node("ironloom.callbacks:LoggerCallback"), "wandb", "main"),
        (Node("ironloom.optim:adamw_8bit", "partial"), "bitsandbytes", "main"),
        (Node("ironloom.data:PretrainData", kwargs=DATA | {"tokenizer_type": "tiktoken"}), "tiktoken", "main.tokenizer_type"),
        (Node("ironloom.data:PretrainData", kwargs=DATA | {"tokenizer_type": "sentencepiece"}), "sentencepiece", "main.tokenizer_type"),
        (Node("ironloom.settings:TrainingArguments", kwargs={"report_to": "wandb"}), "wandb", "main.report_to"),
        (Node("ironloom.settings:TrainingArguments", kwargs={"report_to": ["mlflow"]}), "mlflow", "main.report_to"),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(node: Node, package: str, path: str, without: Any) -> None:
    assert check(Graph({"main": node})) == []
    without(package)
    (problem,) = check(Graph({"main": node}))
    assert problem.path == path
    assert f"needs the package {package}, which is not installed" in problem.message
    assert problem.hint == f'pip install "ironloom[{package}]"'
