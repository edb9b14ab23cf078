"""Job files for clusters: text that starts ``ironloom train`` on every machine. Submits nothing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

# Seconds before the time limit at which SLURM asks a job to stop, so that it can save.
_NOTICE = 120


@dataclass(frozen=True)
class Job:
    """What a job file says.

    Attributes:
        name: Of the job.
        words: Configuration and overrides, as for ``ironloom train``.
        nproc: Processes on each machine.
        nnodes: Machines.
        max_restarts: How often the run may fail and go on.
        gpus: Accelerators on each machine; 0 for none.
        time: Limit of the job as SLURM writes it, ``HH:MM:SS``; None for the cluster's.
        image: Container image (Kubernetes).
        rendezvous: ``HOST:PORT`` where machines meet that no scheduler tells of each other (torchrun).
    """

    name: str
    words: Sequence[str]
    nproc: int
    nnodes: int = 1
    max_restarts: int = 0
    gpus: int = 0
    time: str | None = None
    image: str = ""
    rendezvous: str = ""

    def command(self) -> str:
        """The command of each machine, without its place among them."""
        restarts = ["--max-restarts", str(self.max_restarts)] if self.max_restarts else []
        return shlex.join(["ironloom", "train", *self.words, "--nproc", str(self.nproc), *restarts])


def slurm(job: Job) -> str:
    """A batch script: one task on each machine, which starts its processes there."""
    options = {
        "job-name": job.name,
        "nodes": str(job.nnodes),
        "ntasks-per-node": "1",
        "gpus-per-node": str(job.gpus) if job.gpus else "",
        "time": job.time or "",
        "signal": f"TERM@{_NOTICE}",
        "output": f"{job.name}-%j.log",
    }
    lines = ["#!/bin/bash", *(f"#SBATCH --{name}={value}" for name, value in options.items() if value), "", "set -euo pipefail"]
    place = ""
    if job.nnodes > 1:
        lines += [
            "# The machines meet at the first of them, at a port that belongs to this job.",
            'IRONLOOM_HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)',
            "IRONLOOM_PORT=$((20000 + SLURM_JOB_ID % 20000))",
            "export IRONLOOM_HOST IRONLOOM_PORT",
        ]
        place = f' --nnodes {job.nnodes} --node-rank "$SLURM_NODEID" --rdzv "$IRONLOOM_HOST:$IRONLOOM_PORT"'
    lines.append(f"srun --kill-on-bad-exit=1 bash -c {shlex.quote(f'exec {job.command()}{place}')}")
    return "\n".join(lines) + "\n"


def torchrun(job: Job) -> str:
    """A script with the command to run on every machine."""
    options = ["--nproc-per-node", str(job.nproc), "--max-restarts", str(job.max_restarts)]
    if job.nnodes > 1:
        meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", job.rendezvous, "--rdzv-id", job.name]
        options = ["--nnodes", str(job.nnodes), *meet, *options]
    else:
        options = ["--standalone", *options]
    note = "# Run this on each of the machines.\n" if job.nnodes > 1 else ""
    return f"#!/bin/bash\n{note}exec {shlex.join(['torchrun', *options, '-m', 'ironloom', 'train', *job.words])}\n"


def kubernetes(job: Job) -> str:
    """The manifest of a PyTorchJob of the Kubeflow training operator, which tells each pod its place in ``PET_*``."""
    place = ' --nnodes "$PET_NNODES" --node-rank "$PET_NODE_RANK" --rdzv "$PET_MASTER_ADDR:$PET_MASTER_PORT"' if job.nnodes > 1 else ""
    container: dict[str, Any] = {
        "name": "pytorch",
        "image": job.image,
        # The operator's RANK and WORLD_SIZE count pods, not processes.
        "command": ["bash", "-c", f"unset RANK WORLD_SIZE; exec {job.command()}{place}"],
        # PyTorch's data workers hand batches over through shared memory.
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    if job.gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": job.gpus}}
    pod = {"spec": {"containers": [container], "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}]}}
    replicas = {"Master": {"replicas": 1, "restartPolicy": "OnFailure", "template": pod}}
    if job.nnodes > 1:
        replicas["Worker"] = {"replicas": job.nnodes - 1, "restartPolicy": "OnFailure", "template": pod}
    manifest = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": job.name},
        "spec": {"nprocPerNode": str(job.nproc), "pytorchReplicaSpecs": replicas},
    }

    class Plain(yaml.SafeDumper):
        """Without anchors: the pod is written out for each kind."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(manifest, Dumper=Plain, sort_keys=False, width=10**6)


def job_name(text: str) -> str:
    """A name that SLURM and Kubernetes take: lower-case letters, digits and hyphens, at most 50."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:50].strip("-") or "ironloom"
