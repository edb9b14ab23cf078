"""Optional packages that targets and settings need: whether they are there is asked before anything starts."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from ironloom.config.graph import Node
from ironloom.errors import Problem

# By target: the package, and the extra of this distribution that brings it.
NEEDED = {
    "ironloom.callbacks:TBLogger": ("tensorboard", "tensorboard"),
    "torch.utils.tensorboard:SummaryWriter": ("tensorboard", "tensorboard"),
    "ironloom.callbacks:LoggerCallback": ("wandb", "wandb"),
    "ironloom.callbacks:MLflowLogger": ("mlflow", "mlflow"),
}
ARGUMENTS = "ironloom.settings:TrainingArguments"


def missing(node: Node) -> Iterator[Problem]:
    """A problem for each package that a node needs and that is not installed; paths begin below the node."""
    if node.target in NEEDED:
        yield from _missing(node.target.rpartition(":")[2], *NEEDED[node.target], path="")
    if node.target == ARGUMENTS:
        wanted = node.kwargs.get("report_to", "none")
        for name in [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else ():
            if name in ("tensorboard", "wandb", "mlflow"):
                yield from _missing(f"report_to {name}", name, name, path="report_to")


def _missing(who: str, package: str, extra: str, path: str) -> Iterator[Problem]:
    if importlib.util.find_spec(package) is None:
        yield Problem(f"{who} needs the package {package}, which is not installed", path, hint=f'pip install "ironloom[{extra}]"')
