"""Run as a program: load a folder as anybody would, and tell how far its logits are from those in a file.

Uses nothing of this package, so that a fault of a conversion cannot undo itself.

    python reload.py FOLDER PROBE.safetensors
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: str, probe: str) -> None:
    """Print ``{"problems": [...], "difference": share of the largest logit}`` as the last line."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expected = load_file(probe)
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, output_loading_info=True
    )
    problems = [f"{kind.replace('_', ' ')}: {', '.join(map(str, sorted(map(str, found))[:5]))}" for kind, found in report.items() if found]
    if [type(model).__name__] != list(model.config.architectures or [type(model).__name__]):
        problems.append(f"architectures says {model.config.architectures}, it is {type(model).__name__}")
    with torch.no_grad():
        logits = model.eval()(input_ids=expected["input_ids"]).logits.float()
    wanted = expected["logits"]
    difference = float("inf")
    if logits.shape != wanted.shape:
        problems.append(f"logits of shape {list(logits.shape)}, not {list(wanted.shape)}")
    else:
        difference = float((logits - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
    if any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        problems += tokenizer_problems(AutoTokenizer.from_pretrained(folder, local_files_only=True), wanted.shape[-1])
    print(json.dumps({"problems": problems, "difference": difference if difference == difference else float("inf")}))


def tokenizer_problems(tokenizer: object, rows: int) -> list[str]:
    """What keeps a tokenizer from this model."""
    largest = max(tokenizer.get_vocab().values(), default=-1)  # type: ignore[attr-defined]
    return [f"the tokenizer has the id {largest}, the model only {rows} tokens"] if largest >= rows else []


if __name__ == "__main__":
    main(*sys.argv[1:])
