"""Models on disk: ``config.json`` and safetensors. Nothing is unpickled and no code from the folder is run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ironloom.errors import CheckpointError
from ironloom.models.build import allocate
from ironloom.models.config import MODEL_TYPE, read_config, read_decoder_config
from ironloom.models.decoder import Decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


def save_pretrained(model: Decoder, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors``; weights that share memory are stored once.

    Args:
        model: On any device.
        folder: Made if need be; files of these names in it are replaced once the new ones are whole.

    Raises:
        OSError: If the disk does not take it.
    """
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    dtype = str(model.output_weight.dtype).removeprefix("torch.")
    model.config.save_pretrained(folder, dtype)
    staged = folder / f".{WEIGHTS_NAME}.{os.getpid()}"
    try:
        staged.touch()
        mode = staged.stat().st_mode  # the library's own would shut out everybody but the owner
        save_file(tensors, staged, metadata={"format": "pt"})
        staged.chmod(mode)
        staged.replace(folder / WEIGHTS_NAME)
    except SafetensorError as error:
        raise OSError(f"{folder / WEIGHTS_NAME} cannot be written: {error}") from error
    finally:
        staged.unlink(missing_ok=True)
    (folder / INDEX_NAME).unlink(missing_ok=True)


def load_decoder(folder: str | Path) -> Decoder:
    """Read a built-in decoder, in float32 on the CPU and in evaluation mode.

    Args:
        folder: With ``config.json`` and ``model.safetensors``, or shards of it with their index.

    Raises:
        CheckpointError: If a file is missing or damaged, or the weights are not those of the configuration,
            naming every tensor that is missing, unknown or of another shape.
    """
    folder = Path(folder)
    config = read_decoder_config(folder)
    model = allocate(config)
    files = _weight_files(folder)
    problems = _misfits(model, files)
    if problems:
        raise CheckpointError(f"the weights in {folder} do not fit its config.json: " + "; ".join(problems))
    _copy_weights(model, files)
    model.reset_buffers()
    return model.eval()


def load_model(folder: str | Path) -> Decoder | PreTrainedModel:
    """Read a causal language model: the built-in decoder, or one of ``transformers``, as ``config.json`` says.

    Args:
        folder: A local folder; weights must be safetensors.

    Raises:
        CheckpointError: If a file is missing or damaged, or weights are missing.
    """
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


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model."""
    index = folder / INDEX_NAME
    if not index.exists():
        return [folder / WEIGHTS_NAME]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} cannot be read: {error!r}") from error
    outside = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if outside:
        raise CheckpointError(f"{index} names files outside of its folder: {outside}")
    return [folder / name for name in names]


def _misfits(model: Decoder, files: list[Path]) -> list[str]:
    """How the tensors in ``files`` differ from the model's weights; reads headers only."""
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    found: dict[str, list[int]] = {}
    for path in files:
        with _opened(path) as file:
            found |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is unknown" for name in sorted(found) if name not in wanted]
    problems += [
        f"{name} has shape {found[name]} instead of {shape}" for name, shape in wanted.items() if name in found and found[name] != shape
    ]
    return problems


@torch.no_grad()
def _copy_weights(model: Decoder, files: list[Path]) -> None:
    """Copy, so that the model does not lie in a file that may change."""
    weights = model.state_dict()
    for path in files:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                weights[name].copy_(file.get_tensor(name))


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
