"""Proof of a conversion: ``transformers``, in a fresh process, gives the logits that the decoder gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ironloom.errors import CheckpointError
from ironloom.models.decoder import Decoder

TOLERANCE = 1e-5
_LONGEST = 1024
_SECONDS = 3600


def probe(model: nn.Module, vocab_size: int, longest: int, window: int | None = None) -> dict[str, Tensor]:
    """A few tokens and the logits that a model gives for them, in float32.

    Args:
        model: In float32, on the CPU.
        vocab_size: Tokens are drawn below it.
        longest: Positions that the model has.
        window: Of its sliding window: the tokens reach beyond, if that is not too far.
    """
    length = min(longest, _LONGEST, 48 if window is None else max(48, window + 16))
    tokens = torch.randint(vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=tokens).logits.float()
    model.train(was_training)
    return {"input_ids": tokens, "logits": logits.contiguous()}


def probe_decoder(model: Decoder) -> dict[str, Tensor]:
    """:func:`probe` of a decoder."""
    shape = model.config.settings
    return probe(model, model.vocab_size, shape.max_seq_len, shape.sliding_window)


def verify(folder: Path, expected: dict[str, Tensor], work: Path) -> float:
    """Load a folder in a fresh process with ``AutoModelForCausalLM`` and compare.

    Args:
        folder: The model, with or without a tokenizer.
        expected: What :func:`probe` gave.
        work: A folder for the exchange.

    Returns:
        The largest difference, as a share of the largest logit.

    Raises:
        CheckpointError: If it cannot be loaded whole, or says something else.
    """
    save_file(expected, work / "probe.safetensors")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(Path(__file__).with_name("reload.py")), str(folder), str(work / "probe.safetensors")]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"transformers did not load {folder} within {_SECONDS} s") from error
    finally:
        (work / "probe.safetensors").unlink(missing_ok=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        told = done.stderr.strip().splitlines()
        raise CheckpointError(f"transformers cannot load the model in a fresh process: {told[-1] if told else done.returncode}")
    result = json.loads(lines[-1])
    if result["problems"]:
        raise CheckpointError("transformers does not load the model whole: " + "; ".join(result["problems"]))
    difference = float(result["difference"])
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"transformers computes something else from the converted model: logits differ by {difference:.1e} of the largest, "
            f"allowed are {TOLERANCE:.0e}; nothing was written"
        )
    return difference
