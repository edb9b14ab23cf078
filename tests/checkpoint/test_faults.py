"""Full disks, two runs at once, and files that want to run code."""

import contextlib
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import safetensors
import torch

from ironloom.checkpoint.failures import SaveFailed
from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.lock import LOCK, RunLock
from ironloom.checkpoint.tree import load_tree, save_tree
from ironloom.errors import CheckpointError, ResourceError
from ironloom.weights import load_weights, save_weights


@contextlib.contextmanager
def small_files(num_bytes):
    """No file of this process can grow beyond ``num_bytes``."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk():
    """A disk of one megabyte, where the system lets us make one."""
    folder = Path(tempfile.mkdtemp())
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    if not mounted:
        folder.rmdir()
        pytest.skip("mounting a small disk needs root and a system that allows it")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def write_tree(size):
    return lambda staging: save_tree({"a": torch.ones(size)}, staging, "state")


def write_weights(size):
    return lambda staging: save_weights({"a": torch.ones(size)}, staging) and None


def write_by_library(size):
    return lambda staging: safetensors.torch.save_file({"a": torch.ones(size)}, staging / "model.safetensors")


def write_text(size):
    return lambda staging: (staging / "log.json").write_text("x" * 4 * size) and None


WRITERS = [write_tree, write_weights, write_by_library, write_text]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_cannot_grow_costs_one_save(tmp_path, writer):
    folder = CheckpointFolder(tmp_path)
    folder.save(1, writer(10), {})
    with small_files(100_000), pytest.raises(SaveFailed) as error:
        folder.save(2, writer(1_000_000), {})
    assert "step 2 could not be saved: File too large" in str(error.value)
    assert "ulimit" in str(error.value)
    assert isinstance(error.value, ResourceError)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    folder.save(3, writer(1_000_000), {})
    assert folder.latest(pytest.fail).step == 3


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_costs_one_save(small_disk, writer):
    folder = CheckpointFolder(small_disk / "checkpoints")
    folder.save(1, writer(1000), {})
    with pytest.raises(SaveFailed) as error:
        folder.save(2, writer(1_000_000), {})
    assert "step 2 could not be saved: No space left on device" in str(error.value)
    assert "bytes free" in str(error.value)
    assert "Free disk space" in str(error.value)
    assert [path.name for path in folder.root.iterdir()] == ["checkpoint-1"]
    with pytest.raises(SaveFailed):
        folder.save(1, writer(1_000_000), {})
    assert folder.latest(pytest.fail).step == 1
    folder.save(3, writer(1000), {})
    assert folder.latest(pytest.fail).step == 3


def test_every_remaining_amount_of_space_leaves_a_whole_checkpoint_or_none(small_disk):
    folder = CheckpointFolder(small_disk / "checkpoints")
    folder.save(1, write_weights(10), {})
    num_failed = 0
    for free in range(0, 120_000, 4096):
        shutil.rmtree(folder.path(2), ignore_errors=True)
        filler = small_disk / "filler"
        filler.unlink(missing_ok=True)
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - free))
        try:
            folder.save(2, write_weights(10_000), {})
        except SaveFailed:
            num_failed += 1
        filler.unlink()
        assert folder.latest(pytest.fail).step == (2 if folder.path(2).exists() else 1)
        assert not [path for path in folder.root.iterdir() if path.name.startswith(".")]
    assert 5 < num_failed < 30


def test_a_disk_that_is_too_small_is_refused_before_writing(tmp_path):
    folder = CheckpointFolder(tmp_path)
    with pytest.raises(SaveFailed, match=r"No space left.*1,000,000,000,000,000,000 bytes needed, [0-9,]+ bytes free"):
        folder.save(1, lambda staging: pytest.fail("must not be called"), {}, expected_bytes=10**18)
    folder.save(2, write_text(1), {}, expected_bytes=4)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_the_root_being_a_file_is_a_failed_save(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(SaveFailed, match="step 4 could not be saved"):
        CheckpointFolder(tmp_path / "checkpoints").save(4, write_text(1), {})


def test_a_failed_rename_puts_the_old_checkpoint_back(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path)
    folder.save(1, write_text(1), {"number": 1})
    rename = Path.rename

    def fail(path, target):
        if path.name.endswith(".saving"):
            raise OSError(5, "Input/output error", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(SaveFailed, match="Input/output error"):
        folder.save(1, write_text(2), {"number": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert folder.latest(pytest.fail).info == {"number": 1}


def test_a_failed_replacement_of_a_damaged_checkpoint_keeps_the_good_one_of_before(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path)
    folder.save(1, write_text(1), {"number": 1})
    (tmp_path / "checkpoint-1").rename(tmp_path / ".checkpoint-1.old")
    (tmp_path / "checkpoint-1").mkdir()
    rename = Path.rename

    def fail(path, target):
        if path.name.endswith(".saving"):
            raise OSError(5, "Input/output error", str(path))
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(SaveFailed):
        patch.setattr(Path, "rename", fail)
        folder.save(1, write_text(2), {"number": 2})
    assert folder.latest(lambda message: None).info == {"number": 1}


def test_an_error_without_a_number_keeps_its_words(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise safetensors.SafetensorError("something odd")

    monkeypatch.setattr("ironloom.weights.tensors.save_file", fail)
    with pytest.raises(OSError, match=r"something odd"):
        save_weights({"weight": torch.zeros(1)}, tmp_path)
    assert not list(tmp_path.iterdir())


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_pickle_in_a_checkpoint_never_runs(tmp_path):
    marker = tmp_path / "marker"
    folder = CheckpointFolder(tmp_path / "checkpoints")
    payload = pickle.dumps(Payload(marker))
    names = ["optimizer.pt", "pytorch_model.bin", "data.pkl", "state.json", "state.safetensors", "model.safetensors"]

    def write(staging):
        for name in names:
            (staging / name).write_bytes(payload)

    folder.save(1, write, {})
    path = folder.latest(pytest.fail).path
    model = torch.nn.Linear(1, 1)
    for load in (
        lambda: load_tree(path, "state"),
        lambda: load_tree(path, "optimizer"),
        lambda: load_weights(path, model),
    ):
        with pytest.raises(CheckpointError):
            load()
    for name in ("state.safetensors", "model.safetensors"):
        (path / name).unlink()
    with pytest.raises(CheckpointError, match="runs code"):
        load_weights(path, model)
    (path / "state.json").write_text('{"format": 1, "num_tensors": 1, "tree": {"$": "tensor", "key": "a"}}')
    (path / "state.safetensors").write_bytes(payload)
    with pytest.raises(CheckpointError):
        load_tree(path, "state")
    assert not marker.exists()
    pickle.loads(payload)
    assert marker.exists(), "the payload would have worked"


HOLD = """
import os, sys, time
from ironloom.checkpoint.lock import RunLock
with RunLock(sys.argv[1]):
    child = os.fork() if sys.argv[2] == "fork" else 1
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holder(output_dir, mode="alone"):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(output_dir), mode], stdout=subprocess.PIPE, text=True)
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_run_is_refused_and_told_who_holds_the_folder(tmp_path):
    output_dir = tmp_path / "new \u2603" / "run"
    with holder(output_dir) as (process, _):
        with pytest.raises(ResourceError) as error, RunLock(output_dir):
            pass
        content = json.loads((output_dir / LOCK).read_text())
        for words in (f"process {process.pid} ", content["host"], content["start"], str(output_dir)):
            assert words in str(error.value)
        assert content["pid"] == process.pid
        assert content["start"].startswith(time.strftime("%Y-"))
        process.kill()
        process.wait()
        with RunLock(output_dir):
            assert json.loads((output_dir / LOCK).read_text())["pid"] == os.getpid()
    with RunLock(output_dir):
        pass


def test_a_forked_worker_that_outlives_the_run_does_not_hold_the_folder(tmp_path):
    with holder(tmp_path, "fork") as (process, child):
        process.kill()
        process.wait()
        os.kill(child, 0)  # it is still there
        with RunLock(tmp_path):
            pass
        os.kill(child, 9)


def test_an_error_inside_lets_go_and_the_lock_is_not_kept_twice(tmp_path):
    with pytest.raises(KeyError), RunLock(tmp_path):
        with pytest.raises(ResourceError), RunLock(tmp_path):
            pass
        raise KeyError
    with RunLock(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_refused():
    """As another user, because permissions do not bind root."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        message = "no error"
        try:
            RunLock(folder).__enter__()
        except ResourceError as error:
            message = str(error)
        os.write(writable, message.encode())
        os._exit(0)
    os.close(writable)
    os.waitpid(child, 0)
    with os.fdopen(readable) as answer:
        assert f"{folder} is not writable: Permission denied" in answer.read()
    folder.rmdir()


def test_an_output_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="file"), RunLock(tmp_path / "file"):
        pass
