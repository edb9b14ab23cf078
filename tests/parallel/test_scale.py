"""docs/scale.md: its tables are what the simulation counts, the simulation counts what real processes do, and the formulas hold."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spawned import run

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import simulation  # noqa: E402
from scale import PAGE, TABLES, Row, shown  # noqa: E402
from simulation import Figures, Run  # noqa: E402

from ironloom.parallel.environment import DistributedEnvironment  # noqa: E402
from ironloom.parallel.team import make_team  # noqa: E402
from ironloom.settings.dream.device import DeviceParameters  # noqa: E402
from ironloom.settings.model import ModelConfig  # noqa: E402

D, F, LAYERS, HEADS, GROUPS, VOCABULARY, LENGTH, SAMPLES = 64, 160, 3, 8, 4, 512, 32, 2
SHAPE = {"d_model": D, "d_ffn": F, "num_attention_heads": HEADS, "num_attention_groups": GROUPS, "head_dim": D // HEADS}
LLAMA = {"ln_type": "rmsnorm", "activation_type": "swiglu", "no_bias": True, "untie_embed": True, "positional_embedding": {"type": "rope"}}
NO_DROPOUT = {"dropout_embd": 0.0, "dropout_attn": 0.0, "dropout_mlp": 0.0, "max_seq_len": LENGTH}
MATRICES = 2 * D * D + 2 * D * D * GROUPS // HEADS + 3 * D * F
BLOCK = MATRICES + 2 * D
REST = 2 * VOCABULARY * D + D


def small(world: int, layers: int = LAYERS, arguments: dict[str, Any] | None = None, **sizes: Any) -> Run:
    model = ModelConfig.from_mapping({**SHAPE, **LLAMA, **NO_DROPOUT, "num_layers": layers})
    parameters = DeviceParameters(**{"dp_replicate": 1, "param_dtype": "bfloat16", **sizes})
    return Run(model, VOCABULARY, world, parameters, LENGTH, SAMPLES, arguments or {})


def simulated(what: Run, stage: int = 0) -> Figures:
    figures: Figures = apart(lambda: simulation.simulate(what, stage))
    return figures


def apart(function: Callable[[], Any]) -> Any:
    """In a process of its own, where a process group disturbs nobody."""

    def call() -> Any:
        warnings.simplefilter("ignore")
        del os.environ["WORLD_SIZE"]  # of the processes that there are, not of those that are simulated
        return function()

    return run(call, 1, timeout=250)[0]


def counted(what: Run) -> Figures:
    """One optimizer step of this process among real ones."""
    warnings.simplefilter("ignore")
    team: Any = make_team(DistributedEnvironment(use_cpu=True), what.parameters)
    with simulation.as_accelerator():
        return simulation.step(what, team.place)


PIPELINE = {"schedule_class": "Schedule1F1B", "pipeline_chunks": 2}
REAL = {
    "data": small(2, dp_replicate=2),
    "sharded": small(2, dp_shard=2),
    "context": small(2, dp_shard=1, context_parallel_size=2, checkpoint_activations=True),
    "sharded x tensor": small(4, dp_shard=2, tensor_parallel_size=2),
    "slices": small(2, tensor_parallel_size=2, sequence_parallel=True, loss_parallel=True),
    "ring": small(2, context_parallel_size=2, context_parallel_rotate_method="alltoall"),
    "pipeline": small(2, pipeline_parallel_size=2, arguments=PIPELINE),
}


@pytest.mark.parametrize("name", REAL)
def test_real_processes_do_what_the_simulation_says(name: str) -> None:
    what = REAL[name]
    real = run(lambda: counted(what), what.world)
    ranks = range(2) if name == "pipeline" else (0,)
    for rank in ranks:
        found = simulated(what, stage=rank)
        assert found == real[rank]
        assert found.weights and any(found.moved.values())


def ring(size: int, sent: float) -> float:
    return (size - 1) / size * sent


def test_the_formulas_of_what_is_stored_and_sent() -> None:
    blocks, everything = LAYERS * BLOCK, LAYERS * BLOCK + REST
    data = simulated(small(4, dp_replicate=4))
    assert (data.weights, data.gradients) == (4 * everything, 4 * everything)
    assert data.moments == pytest.approx(8 * everything, rel=1e-3)
    assert data.moved["dp_replicate"] == pytest.approx(ring(4, 2 * 4 * everything), rel=1e-3)
    assert data.peak >= 20 * everything  # weights, moments, gradients, and these once more

    shards = simulated(small(4, dp_shard=4))
    assert shards.weights == 4 * everything // 4
    assert shards.moved["dp_shard"] == pytest.approx(ring(4, 8 * everything), rel=1e-3)

    hybrid = simulated(small(8, dp_replicate=2, dp_shard=4))
    assert hybrid.moved["dp_replicate"] == pytest.approx(ring(2, 2 * 4 * everything / 4), rel=1e-3)

    split = simulated(small(8, dp_shard=4, tensor_parallel_size=2))
    norms = LAYERS * 2 * D
    assert split.weights == pytest.approx((4 * (blocks - norms) / 2 + 4 * norms + 4 * REST) / 4, rel=1e-3)
    sums = SAMPLES * LENGTH * D * 2
    assert split.moved["tp"] == pytest.approx(ring(2, 2 * 4 * LAYERS * sums), rel=0.01)
    again = simulated(small(8, dp_shard=4, tensor_parallel_size=2, checkpoint_activations=True))
    assert again.moved["tp"] == pytest.approx(ring(2, 2 * 5 * LAYERS * sums), rel=0.01)

    context = simulated(small(8, dp_shard=2, context_parallel_size=4))
    assert context.moved["dp_shard cp"] == pytest.approx(ring(8, 8 * everything), rel=1e-3)
    keys = SAMPLES * LENGTH * D * GROUPS / HEADS * 2
    assert context.moved["cp"] == pytest.approx(ring(4, keys * LAYERS * (2 + 4)), rel=1e-3)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("tp", [1, 2])
def test_the_formulas_of_what_the_forward_pass_keeps(tp: int, recompute: bool) -> None:
    """Of one block more."""
    sizes = {"dp_shard": 2, "tensor_parallel_size": tp, "checkpoint_activations": recompute}
    five, six = (simulated(small(2 * tp, layers, **sizes)).kept for layers in (5, 6))
    heads = 4 * D + 4 * D * GROUPS / HEADS + 4 * HEADS
    expected = 4 * D if recompute else 16 * D + 4 * D + (heads + 8 * F) / tp
    # A number for each token and norm, and of each block the memory that waits to be gathered into again.
    assert (six - five) / (SAMPLES * LENGTH) == pytest.approx(expected, rel=0.02)


def test_slices_of_sequences_divide_what_lies_between_split_layers() -> None:
    """But the gathered inputs of the matrix products are kept whole."""
    sizes = {"dp_shard": 2, "tensor_parallel_size": 2, "sequence_parallel": True}
    five, six = (simulated(small(4, layers, **sizes)).kept for layers in (5, 6))
    heads = 4 * D + 4 * D * GROUPS / HEADS + 4 * HEADS
    assert (six - five) / (SAMPLES * LENGTH) == pytest.approx(16 * D / 2 + 4 * D + (heads + 8 * F) / 2, rel=0.02)


def test_every_row_of_the_page_is_one_of_the_program() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, rows in TABLES.items():
        lines = shown(page, name).splitlines()[2:]
        assert [line.split(" | ")[2] for line in lines] == [row.name for row in rows]


ROWS = [(name, index) for name, rows in TABLES.items() for index in range(len(rows))]
QUICK = [("products", 1)]


def recreate(name: str, index: int) -> None:
    row: Row = TABLES[name][index]
    assert apart(row.line) == shown(PAGE.read_text(encoding="utf-8"), name).splitlines()[2 + index]


@pytest.mark.parametrize(("name", "index"), QUICK)
def test_a_row_of_the_page_is_what_is_counted(name: str, index: int) -> None:
    recreate(name, index)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "index"), [row for row in ROWS if row not in QUICK])
def test_all_rows_of_the_page_are_what_is_counted(name: str, index: int) -> None:
    recreate(name, index)


def test_a_checkpoint_has_twelve_bytes_for_each_parameter(tmp_path: Path) -> None:
    from spread import decoder
    from tiny import tiny_trainer

    model = decoder(d_model=64, d_ffn=512)
    tiny_trainer(tmp_path, model, max_steps=2).train()
    (checkpoint,) = tmp_path.rglob("checkpoint-2")
    size = sum(file.stat().st_size for file in checkpoint.rglob("*.safetensors"))
    assert size == pytest.approx(12 * sum(parameter.numel() for parameter in model.parameters()), rel=0.01)
