"""How a model can be taken apart, as data: its blocks, and which weights split by columns or by rows.

Whoever spreads a model over processes reads this; nothing here knows of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ironloom.errors import ConfigError

_LLAMA_COLUMNS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_LLAMA_ROWS = ("self_attn.o_proj", "mlp.down_proj")


@dataclass(frozen=True)
class SplitPlan:
    """Which parts of a block can be split so that each process computes some heads and some hidden units.

    Attributes:
        columns: Linear layers of a block, by path, whose outputs are divided.
        rows: Linear layers whose inputs are divided; their outputs are summed.
        packed: Layers whose outputs are several matrices side by side (queries, keys, values), and how many.
        divided: Attributes of modules of a block that count what is divided: (path of the module, name).
        counts: What must be divisible by the number of processes, by its name in the model's configuration.
    """

    columns: tuple[str, ...] = _LLAMA_COLUMNS
    rows: tuple[str, ...] = _LLAMA_ROWS
    packed: Mapping[str, int] = field(default_factory=dict)
    divided: tuple[tuple[str, str], ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def entrances(self) -> list[str]:
        """Modules of a block, by path, whose hidden states go to the layers divided by outputs."""
        return sorted({path.rpartition(".")[0] for path in (*self.columns, *self.packed)})


#: Families that the tests compare with one process. Blocks of others may read hidden states beside their split layers.
KNOWN = ("gpt2", "llama", "mistral", "qwen2")

_GPT2 = {
    "columns": ("mlp.c_fc",),
    "rows": ("attn.c_proj", "mlp.c_proj"),
    "packed": {"attn.c_attn": 3},
    "divided": (("attn", "num_heads"), ("attn", "split_size"), ("attn", "embed_dim")),
}


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The repeated layers of a model by path, in order: the members of its largest list of modules of one class.

    Empty for a model without such a list.
    """
    best: dict[str, nn.Module] = {}
    most = 0
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len({type(child) for child in module}) != 1:
            continue
        size = sum(parameter.numel() for parameter in module.parameters())
        if size > most:
            best, most = {f"{path}.{name}" if path else name: child for name, child in module.named_children()}, size
    return best


def split_plan_of(model: nn.Module) -> SplitPlan:
    """How the blocks of a model split.

    Known are the built-in decoder, GPT-2, and the models of ``transformers`` whose own plan knows only columns and rows
    (Llama, Qwen2, Mistral ...).

    Raises:
        ConfigError: For any other model.
    """
    config: Any = getattr(model, "config", None)
    settings = getattr(config, "settings", config)
    if getattr(model, "peft_config", None):
        raise ConfigError("layers with adapters are not split over processes: set tensor_parallel_size to 1, and share weights by dp_shard")
    if type(model).__module__ == "ironloom.models.decoder":
        if settings.qk_norm:
            raise ConfigError(
                "layers with qk_norm are not split over processes: set tensor_parallel_size to 1, and share weights by dp_shard"
            )
        return SplitPlan(columns=_present(model, _LLAMA_COLUMNS), counts=_counts(settings, "d_ffn"))
    if getattr(config, "model_type", None) == "gpt2":
        inner = config.n_inner or 4 * config.n_embd
        return SplitPlan(**_GPT2, counts={"n_head": config.n_head, "n_inner": inner})  # type: ignore[arg-type]
    styles = getattr(config, "base_model_tp_plan", None)
    if styles and set(styles.values()) <= {"colwise", "rowwise"} and all(path.startswith("layers.*.") for path in styles):
        columns = tuple(path.removeprefix("layers.*.") for path, style in styles.items() if style == "colwise")
        rows = tuple(path.removeprefix("layers.*.") for path, style in styles.items() if style == "rowwise")
        return SplitPlan(columns, rows, counts=_counts(settings, "intermediate_size"))
    raise ConfigError(
        f"there is no plan by which the layers of {type(model).__name__} could be split over processes: set tensor_parallel_size "
        "to 1 and share the weights with dp_shard instead"
    )


def enters_by_split_layers(model: nn.Module) -> bool:
    """Whether what enters attention and hidden units of a block is known to be read by the split layers only."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    return type(model).__module__ == "ironloom.models.decoder" or kind in KNOWN


def check_split(plan: SplitPlan, size: int) -> None:
    """Refuse a number of processes that does not divide the heads or the hidden units.

    Raises:
        ConfigError: With the nearest number that does.
    """
    if all(count % size == 0 for count in plan.counts.values()):
        return
    nearest = next(fitting for fitting in range(size - 1, 0, -1) if all(count % fitting == 0 for count in plan.counts.values()))
    shown = ", ".join(f"{name} {count}" for name, count in plan.counts.items() if count % size)
    raise ConfigError(f"tensor_parallel_size {size} does not divide {shown}: {nearest} would")


def _counts(settings: Any, width: str) -> dict[str, int]:
    names = ("num_attention_heads", "num_key_value_heads", width)
    return {name: getattr(settings, name) for name in names}


def _present(model: nn.Module, paths: tuple[str, ...]) -> tuple[str, ...]:
    """The paths that lead to a module in a block of this model: without a gate there is no ``gate_proj``."""
    block = next(iter(blocks_of(model).values()))
    found = dict(block.named_modules())
    return tuple(path for path in paths if path in found)
