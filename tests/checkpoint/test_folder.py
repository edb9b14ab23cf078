"""Finding, ordering and keeping checkpoints."""

import time
from pathlib import Path

import pytest

from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.manifest import MANIFEST, verify
from ironloom.errors import ResourceError


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "a run \u2603" / "checkpoints")


def save(folder, step, content="x", **info):
    return folder.save(step, lambda staging: (staging / "data.json").write_text(content) and None, info)


def steps(folder):
    return [checkpoint.step for checkpoint in folder.complete()]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def names(folder):
    return sorted(path.name for path in folder.root.iterdir())


def test_a_save_is_found_again(folder):
    assert folder.complete() == []
    assert folder.latest(pytest.fail) is None
    before = time.time()
    path = save(folder, 7, "hello", best=True)
    assert path == folder.root / "checkpoint-7"
    (checkpoint,) = folder.complete()
    assert (checkpoint.path, checkpoint.step, checkpoint.info, checkpoint.size) == (path, 7, {"best": True}, 5)
    assert before <= checkpoint.time <= time.time()
    assert folder.latest(pytest.fail) == checkpoint
    assert names(folder) == ["checkpoint-7"]


def test_step_zero_is_a_step_and_negative_ones_are_not(folder):
    assert save(folder, 0).name == "checkpoint-0"
    with pytest.raises(ValueError, match="-1"):
        save(folder, -1)


def test_saving_a_step_again_replaces_it(folder):
    save(folder, 5, "old")
    save(folder, 5, "new")
    assert names(folder) == ["checkpoint-5"]
    assert (folder.path(5) / "data.json").read_text() == "new"
    assert verify(folder.path(5), deep=True) == []


def test_a_failed_writer_leaves_the_old_checkpoint_and_nothing_else(folder):
    save(folder, 5, "old")

    def write(staging):
        (staging / "data.json").write_text("new")
        raise KeyError("a fault of the program")

    with pytest.raises(KeyError):
        folder.save(5, write, {})
    assert names(folder) == ["checkpoint-5"]
    assert (folder.path(5) / "data.json").read_text() == "old"


def test_order_is_that_of_the_recorded_time_even_if_the_clock_was_set_back(folder, monkeypatch):
    save(folder, 100)
    monkeypatch.setattr(time, "time", lambda: 5.0)
    save(folder, 3)
    save(folder, 2)
    assert steps(folder) == [100, 3, 2]
    assert folder.latest(pytest.fail).step == 2
    assert len({checkpoint.time for checkpoint in folder.complete()}) == 3


def test_time_survives_a_copy(folder):
    for step in (10, 9):
        save(folder, step)
    for step in (9, 10):  # the older one is the last to be touched
        (folder.path(step) / "note.txt").touch()
    assert steps(folder) == [10, 9]


def test_damaged_ones_are_passed_over_and_named(folder):
    for step in range(1, 7):
        save(folder, step)
    flip(folder.path(6) / "data.json")
    (folder.path(5) / MANIFEST).unlink()
    (folder.path(4) / "data.json").unlink()
    flip(folder.path(3) / MANIFEST)
    flip(folder.path(1) / "data.json")
    warnings = []
    assert folder.latest(warnings.append).step == 2
    text = "\n".join(warnings)
    assert len(warnings) == 4, text
    for words in (
        "checkpoint-6",
        "data.json: content differs",
        "checkpoint-5",
        "manifest.json: missing",
        "data.json: missing",
        "checkpoint-3",
    ):
        assert words in text
    assert "checkpoint-1 " not in text, "it is older than the one that was found"
    assert steps(folder) == [1, 2, 6]


def test_all_damaged_is_none_with_every_damage_named(folder):
    for step in (1, 2):
        save(folder, step)
        flip(folder.path(step) / "data.json")
    warnings = []
    assert folder.latest(warnings.append) is None
    assert len(warnings) == 2


def test_a_renamed_checkpoint_is_damaged(folder):
    save(folder, 1)
    folder.path(1).rename(folder.path(900))
    warnings = []
    assert folder.latest(warnings.append) is None
    assert "step 1" in warnings[0]


def test_other_names_are_left_alone(folder):
    save(folder, 1)
    for name in ("checkpoint-", "checkpoint-01", "checkpoint-x", "checkpoint-2.bak", "runs", ".checkpoint-5.old2"):
        (folder.root / name).mkdir()
    (folder.root / "checkpoint-3").touch()
    found = names(folder)
    folder.clean()
    folder.retain(1)
    assert names(folder) == found
    assert steps(folder) == [1]


class TestAfterAKill:
    """What can be there when the process died in the middle."""

    def test_between_the_two_renames_nothing_is_lost(self, folder):
        save(folder, 5, "good")
        folder.path(5).rename(folder.root / ".checkpoint-5.old")
        (folder.root / ".checkpoint-5.saving").mkdir()
        found = folder.latest(pytest.fail)
        assert (found.step, (found.path / "data.json").read_text()) == (5, "good")
        assert steps(folder) == [5]
        folder.clean()
        assert names(folder) == ["checkpoint-5"]
        assert folder.latest(pytest.fail).path == folder.path(5)

    def test_saving_the_same_step_then_works_without_cleaning(self, folder):
        save(folder, 5, "good")
        folder.path(5).rename(folder.root / ".checkpoint-5.old")
        save(folder, 5, "new")
        assert names(folder) == ["checkpoint-5"]
        assert (folder.path(5) / "data.json").read_text() == "new"

    def test_after_both_renames_the_old_one_does_not_count_twice(self, folder):
        save(folder, 5, "old")
        folder.path(5).rename(folder.root / ".checkpoint-5.old")
        (folder.root / ".checkpoint-5.old").rename(folder.root / "kept")
        save(folder, 5, "new")
        (folder.root / "kept").rename(folder.root / ".checkpoint-5.old")
        assert steps(folder) == [5]
        assert folder.complete()[0].path == folder.path(5)
        folder.clean()
        assert names(folder) == ["checkpoint-5"]
        assert (folder.path(5) / "data.json").read_text() == "new"

    def test_a_good_one_aside_is_not_cleaned_away_for_a_damaged_one(self, folder):
        self.test_after_both_renames_the_old_one_does_not_count_twice(folder)
        folder.path(5).rename(folder.root / ".checkpoint-5.old")
        save(folder, 6)
        folder.path(6).rename(folder.path(5))  # says step 6, so it is damaged
        folder.clean()
        assert folder.latest(lambda message: None).path == folder.root / ".checkpoint-5.old"
        save(folder, 5, "newest")
        assert names(folder) == ["checkpoint-5"]

    def test_clean_removes_half_written_and_half_deleted_folders_only(self, folder):
        save(folder, 1)
        save(folder, 2)
        (folder.path(2) / MANIFEST).unlink()
        for state in ("saving", "deleting", "old"):
            (folder.root / f".checkpoint-9.{state}").mkdir()
            (folder.root / f".checkpoint-9.{state}" / "part").touch()
        folder.clean()
        assert names(folder) == ["checkpoint-1", "checkpoint-2"]

    def test_clean_without_a_folder(self, folder):
        folder.clean()
        assert not folder.root.exists()


class TestRetention:
    def test_the_oldest_go(self, folder):
        for step in (1, 2, 3, 4):
            save(folder, step)
        assert folder.retain(None) == []
        assert folder.retain(4) == []
        assert folder.retain(2) == [folder.path(1), folder.path(2)]
        assert names(folder) == ["checkpoint-3", "checkpoint-4"]

    def test_the_best_stays_within_the_limit_or_beside_the_newest(self, folder):
        for step in (1, 2, 3, 4):
            save(folder, step)
        assert folder.retain(3, [folder.path(1)]) == [folder.path(2)]
        assert folder.retain(1, [folder.path(1)]) == [folder.path(3)]
        assert folder.retain(1, [folder.path(1)]) == []
        assert steps(folder) == [1, 4]

    def test_the_first_best_is_protected_when_it_is_the_newest(self, folder):
        save(folder, 1)
        save(folder, 2)
        assert folder.retain(1, [folder.path(2)]) == [folder.path(1)]

    def test_a_relative_path_protects_too(self, folder, monkeypatch):
        save(folder, 1)
        save(folder, 2)
        monkeypatch.chdir(folder.root)
        assert CheckpointFolder(folder.root).retain(1, [Path("checkpoint-1")]) == []

    def test_damaged_ones_do_not_count_and_are_left_alone(self, folder):
        for step in (1, 2, 3):
            save(folder, step)
        (folder.path(3) / "data.json").unlink()
        assert folder.retain(2) == []
        assert folder.retain(1) == [folder.path(1)]
        assert names(folder) == ["checkpoint-2", "checkpoint-3"]

    def test_the_only_good_one_stays(self, folder):
        save(folder, 1)
        save(folder, 2)
        flip(folder.path(2) / "data.json")  # the right size, so it looks complete
        assert folder.retain(1) == []
        assert folder.latest(lambda message: None).step == 1

    def test_a_limit_below_one_is_refused(self, folder):
        with pytest.raises(ValueError, match="limit"):
            folder.retain(0)

    def test_what_lies_behind_a_link_is_not_deleted(self, folder, tmp_path):
        save(folder, 1)
        folder.path(1).rename(tmp_path / "checkpoint-1")
        folder.path(1).symlink_to(tmp_path / "checkpoint-1")
        save(folder, 2)
        assert steps(folder) == [1, 2]
        assert folder.retain(1) == []
        assert (tmp_path / "checkpoint-1" / MANIFEST).exists()

    def test_a_failed_deletion_says_so_and_leaves_no_half_checkpoint(self, folder, monkeypatch):
        import shutil

        save(folder, 1)
        save(folder, 2)

        def fail(path, **options):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(shutil, "rmtree", fail)
        with pytest.raises(ResourceError, match="checkpoint-1 could not be deleted: Input/output error"):
            folder.retain(1)
        assert steps(folder) == [2]
        monkeypatch.undo()
        folder.clean()
        assert names(folder) == ["checkpoint-2"]
