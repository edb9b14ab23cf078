"""What is acknowledged is on the disk: every file and folder is synced, in the right order."""

import os
from pathlib import Path

import pytest

from ironloom.atomic import write_bytes_atomic
from ironloom.checkpoint.folder import CheckpointFolder


@pytest.fixture
def events(monkeypatch, tmp_path):
    """The syncs and renames below ``tmp_path``, in order, by the names at that moment."""
    events = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def note_sync(descriptor):
        events.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path))))
        fsync(descriptor)

    def note_move(path, target, move):
        events.append(("move", str(Path(target).relative_to(tmp_path))))
        return move(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", lambda path, target: note_move(path, target, rename))
    monkeypatch.setattr(Path, "replace", lambda path, target: note_move(path, target, replace))
    return events


def test_a_save_is_on_the_disk_before_it_has_its_name_and_its_name_is_before_it_returns(events, tmp_path):
    def write(staging):
        (staging / "ranks").mkdir()
        (staging / "a.json").touch()
        (staging / "ranks" / "b.json").touch()

    CheckpointFolder(tmp_path / "root").save(1, write, {})
    staging = "root/.checkpoint-1.saving"
    order = [events.index(event) for event in [
        ("sync", f"{staging}/ranks/b.json"),
        ("sync", f"{staging}/ranks"),
        ("sync", f"{staging}/a.json"),
        ("move", f"{staging}/manifest.json"),
        ("move", "root/checkpoint-1"),
    ]]  # fmt: skip
    assert order == sorted(order)
    assert events[-1] == ("sync", "root")
    manifest, name = events.index(("move", f"{staging}/manifest.json")), events.index(("move", "root/checkpoint-1"))
    assert ("sync", staging) in events[manifest:name]


def test_an_atomic_write_is_synced_before_and_after_the_rename(events, tmp_path):
    write_bytes_atomic(tmp_path / "a", b"new")
    assert [kind for kind, _ in events] == ["sync", "move", "sync"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_failed_atomic_write_leaves_the_old_content_alone(monkeypatch, tmp_path):
    (tmp_path / "a").write_text("old")

    def fail(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_bytes_atomic(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"
