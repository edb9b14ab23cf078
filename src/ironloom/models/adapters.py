"""Low-rank adapters by PEFT: put into a model, kept apart from it on disk, merged into its weights.

PEFT replaces layers inside a model; the model stays of its class, so that plans, engines and generation know it as before. On
disk an adapter is what PEFT writes: ``adapter_config.json`` and ``adapter_model.safetensors``, of the adapter alone.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ironloom.errors import CheckpointError, ConfigError, Problem
from ironloom.models.files import ADAPTER
from ironloom.models.plan import blocks_of
from ironloom.settings.lora import Lora
from ironloom.weights.names import raw_name
from ironloom.weights.tensors import read_json

STEM = "adapter_model"
_NAME = "default"
_PREFIX = "base_model.model."  # of all names in the files of PEFT
_USUAL = (("q_proj", "v_proj"), ("c_attn",), ("query_key_value",))


def add_adapters(model: Any, settings: Lora, base: str) -> None:
    """Freeze a model and give some of its layers adapters, in place.

    The first matrices are drawn from the global random numbers, the second are zero: the model computes what it did.

    Args:
        model: Of ours or of ``transformers``.
        settings: Rank, scale, dropout, layers.
        base: Folder or name of the model; the adapter's files name it.

    Raises:
        ConfigError: If ``peft`` is not installed, or the model has no such layers.
    """
    peft = _peft()
    wanted = _targets(model, settings.target_modules)
    config = peft.LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=wanted,
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(Path(base).resolve()) if Path(base).is_dir() else base,
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
    )
    _inject(peft, model, config)


def _inject(peft: Any, model: Any, config: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that layers of GPT-2 are transposed, which the configuration says where it is so
        try:
            peft.inject_adapter_in_model(config, model, adapter_name=_NAME)
        except ValueError as error:
            raise ConfigError(Problem(str(error).splitlines()[0], path="lora.target_modules")) from error


def _targets(model: nn.Module, wanted: list[str] | str | None) -> list[str]:
    """Ends of the names of the layers that get adapters.

    Raises:
        ConfigError: If there are none.
    """
    block = next(iter(blocks_of(model).values()), model)
    names = [path.rpartition(".")[2] for path, module in block.named_modules() if isinstance(module, nn.Linear) or _is_conv(module)]
    known = sorted(set(names))
    if wanted == "all-linear":
        return known
    chosen = [wanted] if isinstance(wanted, str) else wanted
    if chosen is None:
        chosen = next((list(usual) for usual in _USUAL if set(usual) <= set(known)), None)
        if chosen is None:
            message = f"{type(model).__name__} has no layers that are known for queries and values"
            raise ConfigError(Problem(message, path="lora.target_modules", hint=f"name some of {', '.join(known)}"))
    missing = [name for name in chosen if not any(path == name or path.endswith(f".{name}") for path, _ in model.named_modules())]
    if missing:
        raise ConfigError(
            Problem(
                f"the model has no layer {missing[0]!r}", path="lora.target_modules", hint=f"its layers: {', '.join(known)}, all-linear"
            )
        )
    return chosen


def _is_conv(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError(Problem("adapters need the package peft", path="lora", hint="pip install 'ironloom[peft]'")) from error
    return peft


def has_adapters(model: nn.Module) -> bool:
    """Whether adapters are trained in the place of the model's weights."""
    return _NAME in (getattr(model, "peft_config", None) or {})


def adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the adapters; the very tensors, by the names that PEFT stores them under."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        name = raw_name(name)
        if f".{_NAME}." in name and ".lora_" in name:
            found[_PREFIX + name.replace(f".{_NAME}.", ".")] = parameter
    return found


class AdapterWeights(nn.Module):
    """The weights of a model's adapters as a module of their own, under the names in the files; to load into."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self._weights = adapter_weights(model)

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The very tensors by name."""
        return dict(self._weights)

    def parameters(self, recurse: bool = True) -> Any:
        """The same tensors."""
        return iter(self._weights.values())


def save_config(model: Any, folder: Path) -> None:
    """Write ``adapter_config.json``."""
    model.peft_config[_NAME].save_pretrained(str(folder))
    path = folder / ADAPTER
    content = json.loads(path.read_text(encoding="utf-8")) | {"inference_mode": True}
    content["target_modules"] = sorted(content["target_modules"])  # a set has another order in each process
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_adapter(folder: Path, base: str | None = None) -> Any:
    """The model that an adapter belongs to, with the adapter in it, in float32 and in evaluation mode.

    Args:
        folder: With the files of an adapter.
        base: Where its model is, if not where the adapter says.

    Raises:
        CheckpointError: If the files are damaged, or not of this model.
        ConfigError: If ``peft`` is not installed, or they are of another kind of adapter.
        ResourceError: If the model is not here and cannot be fetched.
    """
    from ironloom.models.pretrained import load_pretrained
    from ironloom.weights import load_weights

    content = read_json(folder / ADAPTER)
    if content.get("peft_type") != "LORA":
        raise ConfigError(f"{folder} holds an adapter of type {content.get('peft_type')!r}; known is LORA")
    named = base or content.get("base_model_name_or_path")
    if not named:
        raise CheckpointError(f"{folder / ADAPTER} does not say which model it belongs to: name it with --base")
    model = load_pretrained(named)
    peft = _peft()
    _inject(peft, model, peft.LoraConfig.from_pretrained(str(folder)))
    load_weights(folder, AdapterWeights(model), stem=STEM)
    return model.eval()


@torch.no_grad()
def merge(model: Any) -> Any:
    """Add what the adapters add to the weights, and take the adapters out; the model itself, in place.

    Raises:
        ConfigError: If it has none.
    """
    if not has_adapters(model):
        raise ConfigError("the model has no adapters to merge")
    for path, module in list(model.named_modules()):
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            module.merge()
            holder, _, name = path.rpartition(".")
            setattr(model.get_submodule(holder), name, module.base_layer)
    del model.peft_config
    if hasattr(model, "_hf_peft_config_loaded"):
        model._hf_peft_config_loaded = False
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model
