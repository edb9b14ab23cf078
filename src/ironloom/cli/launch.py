"""``ironloom launch``: the job file or the command that starts a run on a cluster."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from ironloom.cli.configuration import ConfigurationWords, as_processes, load_checked, output_dir, split
from ironloom.errors import ConfigError, ResourceError

_OWN = (
    "--slurm",
    "--torchrun",
    "--kubernetes",
    "--print",
    "--nproc",
    "--nnodes",
    "--max-restarts",
    "--gpus",
    "--time",
    "--image",
    "--rdzv",
)
_FILES = {"slurm": ("job.slurm", "sbatch"), "torchrun": ("job.sh", "bash"), "kubernetes": ("job.yaml", "kubectl create -f")}


def launch(
    words: ConfigurationWords,
    slurm: Annotated[bool, typer.Option("--slurm", help="A batch script for SLURM.")] = False,
    torchrun: Annotated[bool, typer.Option("--torchrun", help="The command for torchrun.")] = False,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="A PyTorchJob of Kubeflow.")] = False,
    show: Annotated[bool, typer.Option("--print", help="Print it; else it is written into the output folder.")] = False,
    nproc: Annotated[int, typer.Option("--nproc", min=1, help="Processes on each machine.")] = 1,
    nnodes: Annotated[int, typer.Option("--nnodes", min=1, help="Machines.")] = 1,
    max_restarts: Annotated[int, typer.Option("--max-restarts", min=0, help="After a failure go on so often.")] = 0,
    gpus: Annotated[int, typer.Option("--gpus", min=0, help="GPUs to ask for on each machine.")] = 0,
    time: Annotated[str | None, typer.Option("--time", help="Time limit, HH:MM:SS (SLURM).")] = None,
    image: Annotated[str | None, typer.Option("--image", help="Container image (Kubernetes).")] = None,
    rdzv: Annotated[str | None, typer.Option("--rdzv", metavar="HOST:PORT", help="Where the machines meet (torchrun).")] = None,
) -> None:
    """Write what starts a run on a cluster. The configuration is checked for that number of processes first.

    Example: ironloom launch examples/quickstart.yaml --slurm --print
    """
    from ironloom.parallel import launch_jobs

    kinds = {"slurm": slurm, "torchrun": torchrun, "kubernetes": kubernetes}
    chosen = [kind for kind, wanted in kinds.items() if wanted]
    if len(chosen) != 1:
        raise ConfigError("choose one of --slurm, --torchrun and --kubernetes")
    kind = chosen[0]
    _check_options(kind, nnodes, time, image, rdzv)
    path, overrides, arguments, _ = split(words, own=_OWN)
    with as_processes(nproc * nnodes, nproc):
        folder = output_dir(load_checked(path, overrides, arguments))
    name = launch_jobs.job_name(folder.name)
    job = launch_jobs.Job(name, words, nproc, nnodes, max_restarts, gpus, time, image or "", rdzv or "")
    text = {"slurm": launch_jobs.slurm, "torchrun": launch_jobs.torchrun, "kubernetes": launch_jobs.kubernetes}[kind](job)
    if show:
        print(text, end="")
        return
    file, submit = _FILES[kind]
    _write(folder / file, text)
    print(f"{submit} {folder / file}")


def _check_options(kind: str, nnodes: int, time: str | None, image: str | None, rdzv: str | None) -> None:
    """Refuse options that the kind of job does not know, and ask for those that it needs."""
    for name, value, owner in (("--time", time, "slurm"), ("--image", image, "kubernetes"), ("--rdzv", rdzv, "torchrun")):
        if value is not None and owner != kind:
            raise ConfigError(f"{name} has no effect with --{kind}; leave it out")
    if kind == "kubernetes" and not image:
        raise ConfigError("--kubernetes: which container image? Give --image")
    if kind == "torchrun" and nnodes > 1 and not rdzv:
        raise ConfigError("--torchrun: several machines need a place to meet; give --rdzv HOST:PORT")
    if kind == "torchrun" and nnodes == 1 and rdzv:
        raise ConfigError("--rdzv has no effect with one machine; leave it out")


def _write(file: pathlib.Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"cannot write {file}: {error.strerror}") from error
