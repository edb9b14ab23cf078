"""Memory and bytes moved of every process, for Llama shapes on 8 to 1,024 processes, without any of them.

    python benchmarks/scale.py            print the tables of docs/scale.md
    python benchmarks/scale.py --write    and put them into it

Needs some minutes and less than 2 GB of memory: see simulation.py.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from simulation import Figures, Run, simulate

from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.model import ModelConfig

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/scale.md"
GIB = 2**30
VOCABULARY = 128256

preset = yaml.safe_load((ROOT / "src/ironloom/library/model/llama.yaml").read_text(encoding="utf-8"))
LLAMA_8B = ModelConfig.from_mapping({name: value for name, value in preset.items() if name not in ("tokenizer_type", "vocab_name_or_path")})
# Llama 3 70B (Grattafiori et al. 2024, arXiv:2407.21783, table 3).
LLAMA_70B = replace(LLAMA_8B, d_model=8192, d_ffn=28672, num_layers=80, num_attention_heads=64)
SHAPES = {"8B": LLAMA_8B, "70B": LLAMA_70B}

#: Names of the degrees as the table shows them.
DEGREES = {
    "dp_replicate": "dp_replicate",
    "dp_shard": "dp_shard",
    "context_parallel_size": "cp",
    "tensor_parallel_size": "tp",
    "pipeline_parallel_size": "pp",
}
#: Further fields, when they are set.
SHOWN = {
    "sequence_parallel": "sequence parallel",
    "loss_parallel": "loss parallel",
    "context_parallel_rotate_method": "ring",
    "recompute": "selective",
}


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        degrees: Fields of DeviceParameters.
        model: Name of the shape.
        length: Tokens of a sample.
        samples: Samples of a batch.
        recompute: Whether the activations of blocks are computed again.
        options: Further fields of DeviceParameters.
        pipeline: Arguments of the pipeline.
        stage: Stage whose first process is shown.
    """

    degrees: dict[str, int]
    model: str = "8B"
    length: int = 8192
    samples: int = 1
    recompute: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    pipeline: dict[str, Any] = field(default_factory=dict)
    stage: int = 0

    @property
    def world(self) -> int:
        """Processes."""
        world = 1
        for size in self.degrees.values():
            world *= size
        return world

    @property
    def name(self) -> str:
        """What tells it from the other rows."""
        parts = [f"{DEGREES[name]} {size}" for name, size in self.degrees.items()]
        more = []
        if self.pipeline:
            more.append(f"{self.pipeline['schedule_class'].removeprefix('Schedule')}, stage {self.stage}")
        more += [SHOWN[option] for option in self.options]
        if not self.recompute:
            more.append("nothing recomputed")
        return "; ".join([" x ".join(parts), *more])

    def figures(self) -> Figures:
        """What the simulation counts."""
        again = "checkpoint_sequential" if self.pipeline else "checkpoint_activations"
        fields: dict[str, Any] = {"dp_replicate": 1, "param_dtype": "bfloat16", **self.degrees, **self.options}
        arguments = dict(self.pipeline)
        (arguments if self.pipeline else fields)[again] = self.recompute
        run = Run(SHAPES[self.model], VOCABULARY, self.world, DeviceParameters(**fields), self.length, self.samples, arguments)
        return simulate(run, self.stage)

    def line(self) -> str:
        """Its line of the table."""
        found = self.figures()
        sizes = (found.weights, found.gradients, found.moments, found.kept, found.peak)
        moved = ", ".join(f"{axes.replace(' ', '+')} {_gib(size)}" for axes, size in found.moved.items() if axes and size > GIB / 200)
        tokens = f"{self.samples} x {self.length:,}"
        cells = (self.model, f"{self.world:,}", self.name, tokens, *map(_gib, sizes), moved)
        return f"| {' | '.join(cells)} |"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


SLICES = {"sequence_parallel": True, "loss_parallel": True}
RING = {"context_parallel_rotate_method": "alltoall"}
SELECTIVE = {"recompute": "selective"}
PIPE = {"pipeline_chunks": 8, "stages_per_rank": 1}
TWO = {"pipeline_chunks": 8, "stages_per_rank": 2}
PIPELINE = {"degrees": {"pipeline_parallel_size": 4, "dp_replicate": 8}, "samples": 8}

#: The tables, by the marker in the page.
TABLES = {
    "one axis": [
        Row({"dp_replicate": 8}),
        Row({"dp_shard": 8}, recompute=False),
        Row({"dp_shard": 8}),
        Row({"dp_shard": 64}),
        Row({"dp_shard": 1024}),
        Row({"tensor_parallel_size": 8}),
        Row({"context_parallel_size": 8}, length=65536),
    ],
    "products": [
        Row({"dp_replicate": 8, "dp_shard": 8}),
        Row({"dp_replicate": 16, "dp_shard": 64}),
        Row({"dp_shard": 8, "tensor_parallel_size": 8}),
        Row({"dp_shard": 8, "tensor_parallel_size": 8}, options=SLICES),
        Row({"dp_shard": 32, "context_parallel_size": 8}, length=131072),
        Row({"dp_shard": 8, "context_parallel_size": 4}, length=32768),
        Row({"dp_shard": 8, "context_parallel_size": 4}, length=32768, options=RING),
        Row({"dp_shard": 32, "context_parallel_size": 4, "tensor_parallel_size": 8}, length=131072),
        Row({"dp_shard": 32, "context_parallel_size": 4, "tensor_parallel_size": 8}, length=131072, options=SLICES),
        Row({"dp_shard": 64}, model="70B"),
        Row({"dp_shard": 32, "tensor_parallel_size": 8}, model="70B"),
        Row({"dp_shard": 32, "tensor_parallel_size": 8}, model="70B", options=SLICES),
        Row({"dp_shard": 128, "tensor_parallel_size": 8}, model="70B", options=SLICES),
    ],
    "pipelines": [
        Row(**PIPELINE, pipeline={"schedule_class": "ScheduleGPipe", **PIPE}),
        *(Row(**PIPELINE, pipeline={"schedule_class": "Schedule1F1B", **PIPE}, stage=stage) for stage in range(4)),
        Row({"pipeline_parallel_size": 4, "dp_shard": 8}, samples=8, pipeline={"schedule_class": "Schedule1F1B", **PIPE}),
        *(Row(**PIPELINE, pipeline={"schedule_class": "ScheduleInterleaved1F1B", **TWO}, stage=stage) for stage in (0, 3)),
        *(Row(**PIPELINE, pipeline={"schedule_class": "ScheduleInterleavedZeroBubble", **TWO}, stage=stage) for stage in (0, 3)),
        *(Row(**PIPELINE, pipeline={"schedule_class": "ScheduleZBVZeroBubble", **TWO}, stage=stage) for stage in (0, 3)),
    ],
    "published": [
        Row({"dp_shard": 8}, samples=2, recompute=False),
        Row({"dp_shard": 8}, samples=2, options=SELECTIVE),
        Row({"dp_shard": 128}, samples=2, options=SELECTIVE),
        Row({"dp_shard": 8}, samples=2),
        Row({"dp_shard": 8}, length=32768),
        Row({"dp_shard": 4, "context_parallel_size": 2}, length=65536),
        Row({"dp_shard": 2, "context_parallel_size": 4}, length=131072),
        Row({"dp_shard": 32, "tensor_parallel_size": 8}, model="70B", samples=16, options=SLICES),
    ],
}

HEAD = (
    "| model | processes | degrees | samples x tokens | weights | gradients | moments | kept | peak | moved in a step |",
    "|---|---:|---|---:|---:|---:|---:|---:|---:|---|",
)


def table(name: str) -> str:
    """A table as the page shows it."""
    lines = []
    for row in TABLES[name]:
        lines.append(row.line())
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join([*HEAD, *lines])


def shown(page: str, name: str) -> str:
    """The table that stands in a page."""
    return page.partition(f"<!-- {name} -->\n")[2].partition("\n\n")[0]


def main() -> None:
    """Print all tables, and write them if it is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="put them into docs/scale.md")
    write = parser.parse_args().write
    warnings.simplefilter("ignore")
    page = PAGE.read_text(encoding="utf-8")
    for name in TABLES:
        made = table(name)
        if write:
            page = page.replace(f"<!-- {name} -->\n{shown(page, name)}", f"<!-- {name} -->\n{made}")
        else:
            print(f"\n{name}\n\n{made}")
    if write:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
