"""Tasks of lm-evaluation-harness: which there are, and what a model achieves in them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ironloom.errors import ConfigError, ResourceError
from ironloom.settings.base import nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ironloom.data.tokenizer import Tokenizer
    from ironloom.models.decoder import Decoder


def find_tasks(names: Sequence[str], include: Sequence[Path]) -> Any:
    """The harness's directory of tasks.

    Args:
        names: Tasks, groups or tags that it must have.
        include: Folders with further tasks.

    Raises:
        ConfigError: If the harness is not installed, or there is no such task or folder.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError("--tasks needs lm-evaluation-harness: pip install 'ironloom[eval]'") from error
    for folder in include:
        if not folder.is_dir():
            raise ConfigError(f"--include-path {folder}: there is no such folder")
    manager = TaskManager(include_path=[str(folder) for folder in include] or None)
    for name in names:
        if name not in manager.all_tasks:
            near = nearest(name, manager.all_tasks)
            hint = f"did you mean {near!r}?" if near else "those of your own need --include-path FOLDER"
            raise ConfigError(f"--tasks: there is no task {name!r} ({hint})")
    return manager


def run_tasks(
    model: Decoder | PreTrainedModel,
    tokenizer: Tokenizer,
    end: set[int],
    names: Sequence[str],
    manager: Any,
    *,
    batch_size: int,
    max_length: int | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """What a model achieves.

    Args:
        model: A decoder, or a causal model of ``transformers``.
        tokenizer: Its tokenizer.
        end: The tokens that end a text.
        names: Of the tasks.
        manager: Of :func:`find_tasks`.
        batch_size: Texts that are read at once.
        max_length: Tokens that are read at once; None: as many as the model reads.
        num_fewshot: Examples before each question; None: as the task says.
        limit: Only the first so many questions of each task; None: all.

    Returns:
        The harness's ``results``, ``versions``, ``n-shot`` and ``n-samples``, each by task.

    Raises:
        ConfigError: If a task cannot be asked of this model.
        ResourceError: If a task's data are not here and cannot be fetched.
    """
    from lm_eval.evaluator import simple_evaluate

    from ironloom.evaluation.harness import HarnessModel

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    asked = HarnessModel(model, tokenizer, end, batch_size, max_length)
    try:
        found = simple_evaluate(
            asked, tasks=list(names), task_manager=manager, num_fewshot=num_fewshot, limit=limit, log_samples=False, bootstrap_iters=1000
        )
    except OSError as error:
        raise ResourceError(
            f"the data of {', '.join(names)} are not here and cannot be fetched: {error}; "
            "give tasks on local files with --include-path, or fetch the data where there is a network"
        ) from error
    return {name: found[name] for name in ("results", "versions", "n-shot", "n-samples")}
