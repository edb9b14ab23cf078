"""Models on disk: ``config.json`` and safetensors. Nothing is unpickled and no code from the folder is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from ironloom.errors import CheckpointError
from ironloom.models.build import allocate
from ironloom.models.config import MODEL_TYPE, read_config, read_decoder_config
from ironloom.models.decoder import Decoder
from ironloom.weights import load_weights, save_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: The file of an adapter that says which model it belongs to; see :mod:`ironloom.models.adapters`.
ADAPTER = "adapter_config.json"


def save_pretrained(model: Decoder, folder: str | Path) -> None:
    """Write ``config.json`` and the weights; weights that share memory are stored once.

    Args:
        model: On any device.
        folder: Made if need be; files of these names in it are replaced once the new ones are whole.

    Raises:
        OSError: If the disk does not take it.
    """
    model.config.save_pretrained(folder, str(model.output_weight.dtype).removeprefix("torch."))
    save_weights(model.state_dict(), Path(folder))


def load_decoder(folder: str | Path) -> Decoder:
    """Read a built-in decoder, in float32 on the CPU and in evaluation mode.

    Args:
        folder: With ``config.json`` and ``model.safetensors``, or shards of it with their index.

    Raises:
        CheckpointError: If a file is missing or damaged, or the weights are not those of the configuration,
            naming every tensor that is missing, unknown or of another shape.
    """
    folder = Path(folder)
    model = allocate(read_decoder_config(folder))
    load_weights(folder, model)
    model.reset_buffers()
    return model.eval()


def load_model(folder: str | Path) -> Decoder | PreTrainedModel:
    """Read a causal language model: the built-in decoder, or one of ``transformers``, as ``config.json`` says; or one with adapters.

    Args:
        folder: A local folder; weights must be safetensors.

    Raises:
        CheckpointError: If a file is missing or damaged, or weights are missing.
    """
    if (Path(folder) / ADAPTER).is_file():
        from ironloom.models.adapters import load_adapter

        adapted: Decoder | PreTrainedModel = load_adapter(Path(folder))
        return adapted
    if read_config(folder).get("model_type") == MODEL_TYPE:
        return load_decoder(folder)
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder), use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"transformers cannot load the model in {folder}: {error}") from error
    if report["missing_keys"]:
        raise CheckpointError(f"weights are missing in {folder}: {', '.join(sorted(report['missing_keys']))}")
    return model
