"""An adapter and its model become one model without adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ironloom.errors import CheckpointError
from ironloom.models.adapters import load_adapter, merge
from ironloom.models.convert.places import staged
from ironloom.models.convert.source import copy_companions
from ironloom.models.convert.verify import TOLERANCE, probe, probe_decoder
from ironloom.models.decoder import Decoder
from ironloom.models.files import load_model


def merge_adapter(folder: Path, output: Path, base: str | None = None) -> float:
    """Write the model that an adapter makes of its own; it appears when it computes what the two did.

    Args:
        folder: With the adapter's files.
        output: The folder to make.
        base: Where its model is, if not where the adapter says.

    Returns:
        The largest difference of logits, as a share of the largest.

    Raises:
        ConfigError: If ``output`` exists, or ``peft`` is not installed.
        CheckpointError: If files are damaged, or the merged model computes something else.
        ResourceError: If the model is not here, or the disk does not take it.
    """
    with staged(output) as target:
        model = load_adapter(folder, base)
        before = _logits(model)
        merge(model).save_pretrained(target)
        copy_companions(folder, target)
        after = _logits(load_model(target))
        difference = float((before - after).abs().max() / before.abs().max())
        if not difference <= TOLERANCE:
            raise CheckpointError(f"the merged model computes something else: logits differ by {difference:.1e} of the largest")
    return difference


def _logits(model: Any) -> Any:
    if isinstance(model, Decoder):
        return probe_decoder(model)["logits"]
    text = model.config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or 2**31
    return probe(model, text.vocab_size, longest, getattr(text, "sliding_window", None))["logits"]
