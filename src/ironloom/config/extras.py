"""Optional packages that targets and settings need: whether they are there is asked before anything starts."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from ironloom.config.graph import Node
from ironloom.errors import Problem

# The package by target; the extra of this distribution that brings it has the package's name.
NEEDED = {
    "ironloom.callbacks:TBLogger": "tensorboard",
    "torch.utils.tensorboard:SummaryWriter": "tensorboard",
    "ironloom.callbacks:LoggerCallback": "wandb",
    "ironloom.callbacks:MLflowLogger": "mlflow",
    "ironloom.optim:adamw_8bit": "bitsandbytes",
}
PACKAGES = frozenset(NEEDED.values())
ARGUMENTS = "ironloom.settings:TrainingArguments"
DATA = "ironloom.data:PretrainData"
TOKENIZERS = ("tiktoken", "sentencepiece")


def missing(node: Node) -> Iterator[Problem]:
    """A problem for each package that a node needs and that is not installed; paths begin below the node."""
    if node.target in NEEDED:
        yield from absent(NEEDED[node.target], node.target.rpartition(":")[2])
    if node.target == DATA and (kind := node.kwargs.get("tokenizer_type")) in TOKENIZERS:
        yield from absent(str(kind), f"tokenizer_type {kind}", path="tokenizer_type")
    if node.target == ARGUMENTS:
        wanted = node.kwargs.get("report_to", "none")
        for name in [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else ():
            if name in PACKAGES:
                yield from absent(name, f"report_to {name}", path="report_to")


def absent(package: str, who: str, path: str = "") -> Iterator[Problem]:
    """A problem if the package that ``who`` needs is not installed; it is not imported."""
    if importlib.util.find_spec(package) is None:
        yield Problem(f"{who} needs the package {package}, which is not installed", path, hint=f'pip install "ironloom[{package}]"')
