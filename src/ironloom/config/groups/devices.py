"""How processes share the work, from the keys of groups; and the type of the arithmetic, which one of these may say."""

from __future__ import annotations

import math
from typing import Any

from ironloom.config.graph import Node
from ironloom.config.groups.across import PRECISIONS
from ironloom.config.groups.keys import Keys
from ironloom.config.groups.rules import Groups
from ironloom.config.sourced import Sourced
from ironloom.settings.dream.world import local_world_size, world_size

DEVICES = "ironloom.settings:DeviceParameters"
COMM = "ironloom.settings:Comm"
_STRATEGY = ("parallel.fsdp_sharding_strategy", "parallel.use_fsdp")


def precision_of(groups: Groups, key: Keys) -> Sourced:
    """The type of forward and backward pass."""
    said = groups.parallel.fsdp_mixed_precision
    if said == "mixed":
        return key("model.precision")
    return key.derived(PRECISIONS[said], "parallel.fsdp_mixed_precision", "model.precision")


def devices_of(groups: Groups, key: Keys) -> Node | None:
    """The trainer's device parameters; None where each process holds a copy of the model, and no key says more."""
    trainer, parallel, operation = groups.trainer, groups.parallel, groups.operation
    found: dict[str, Any] = {}
    if trainer.tensor_model_parallel_size > 1:
        found["tensor_parallel_size"] = key("trainer.tensor_model_parallel_size")
    if trainer.pipeline_model_parallel_size > 1:
        found["pipeline_parallel_size"] = key("trainer.pipeline_model_parallel_size")
    if parallel.use_fsdp:
        found |= _shares(groups, key)
    if operation.activation_recompute:
        found["checkpoint_activations"] = key("operation.activation_recompute")
        if operation.recompute_strategy == "optimized":
            found["recompute"] = key.derived("selective", "operation.recompute_strategy")
    comm: dict[str, Any] = {}
    if parallel.timeout_minute != type(parallel).timeout_minute:
        seconds = math.ceil(60 * parallel.timeout_minute)
        comm = {name: key.derived(seconds, "parallel.timeout_minute") for name in ("init_timeout_seconds", "train_timeout_seconds")}
    if parallel.dist_backend == "gloo":
        comm["backend"] = key("parallel.dist_backend")
    if comm:
        found["comm"] = Node(COMM, kwargs=comm)
    if not found:
        return None
    precision = precision_of(groups, key)
    return Node(DEVICES, kwargs={**found, "param_dtype": key.derived(precision.value, *precision.keys)})


def _shares(groups: Groups, key: Keys) -> dict[str, Any]:
    """Who holds which part of the weights, and in which type and place."""
    parallel, found = groups.parallel, {}
    if parallel.fsdp_sharding_strategy == "full":
        found["dp_replicate"] = key.derived(1, *_STRATEGY)
        found["dp_shard"] = key.derived("auto", *_STRATEGY)
    elif parallel.fsdp_sharding_strategy == "hybrid":
        size = _on_this_machine(groups)
        if size > 1:
            found["dp_shard"] = key.derived(size, *_STRATEGY)
    if parallel.fsdp_mixed_precision in ("bf16", "fp16"):
        found["reduce_dtype"] = key.derived(PRECISIONS[parallel.fsdp_mixed_precision], "parallel.fsdp_mixed_precision")
    if parallel.fsdp_offload_params:
        found["offload_parameters"] = key("parallel.fsdp_offload_params")
    return found


def _on_this_machine(groups: Groups) -> int:
    """How many processes of this machine read different samples: as many share the weights of one copy."""
    tensor, stages = groups.trainer.tensor_model_parallel_size, groups.trainer.pipeline_model_parallel_size
    data = (world_size() or 1) // (tensor * stages)
    return math.gcd(max(1, (local_world_size() or 1) // tensor), max(1, data))
