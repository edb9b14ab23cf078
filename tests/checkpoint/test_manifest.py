"""Every change to a saved checkpoint is seen, and what a manifest says is never trusted."""

import json
import os

import pytest
import xxhash

from ironloom.checkpoint import manifest as module
from ironloom.checkpoint.manifest import MANIFEST, read_manifest, verify, write_manifest
from ironloom.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    """A folder with a space and other letters in its name, and files in two levels."""
    folder = tmp_path / "L\u00f6we 1" / "checkpoint-3"
    (folder / "ranks").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(os.urandom(3_000_000))
    (folder / "ranks" / "state \u2603.json").write_text('{"a": 1}')
    (folder / "empty.txt").touch()
    write_manifest(folder, 3, {"best": True, "loss": float("nan")}, time=1000.5)
    return folder


def rewrite(folder, change):
    """Change a manifest and make its check right again, as a forger would."""
    content = json.loads((folder / MANIFEST).read_bytes())
    change(content)
    content.pop("check", None)
    content["check"] = module._check(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def test_a_manifest_says_what_was_saved(folder):
    manifest = read_manifest(folder)
    assert (manifest.step, manifest.time, manifest.info["best"]) == (3, 1000.5, True)
    assert sorted(manifest.files) == ["empty.txt", "model.safetensors", "ranks/state \u2603.json"]
    entry = manifest.files["model.safetensors"]
    assert entry.hash == xxhash.xxh3_128_hexdigest((folder / "model.safetensors").read_bytes())
    assert entry.size == 3_000_000
    assert verify(folder, deep=True) == verify(folder, deep=False) == []


def test_the_manifest_is_written_last(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "fsync_tree", lambda path: seen.append((path / MANIFEST).exists()))
    (folder / MANIFEST).unlink()
    write_manifest(folder, 3, {})
    assert seen == [False]
    assert (folder / MANIFEST).exists()


def test_progress_counts_every_byte(folder):
    pieces = []
    assert verify(folder, deep=True, progress=pieces.append) == []
    assert sum(pieces) == read_manifest(folder).size


@pytest.mark.parametrize("name", ["model.safetensors", "ranks/state \u2603.json"])
@pytest.mark.parametrize("position", [0, -1, 4])
def test_a_flipped_byte_is_seen(folder, name, position):
    data = bytearray((folder / name).read_bytes())
    data[position] ^= 1
    (folder / name).write_bytes(data)
    assert verify(folder, deep=False) == []
    (damage,) = verify(folder, deep=True)
    assert damage.startswith(f"{name}: content differs")


def test_a_flipped_byte_anywhere_in_the_manifest_is_seen_or_changes_nothing(folder):
    good = (folder / MANIFEST).read_bytes()
    expected = repr(read_manifest(folder))
    num_seen = 0
    for position in range(len(good)):
        for mask in (1, 0x10, 0x80):
            data = bytearray(good)
            data[position] ^= mask
            (folder / MANIFEST).write_bytes(data)
            damages = verify(folder, deep=False)
            num_seen += bool(damages)
            assert damages or repr(read_manifest(folder)) == expected, f"byte {position} with {mask:#x}"
    assert num_seen > 2 * len(good)


@pytest.mark.parametrize(
    ("harm", "damage"),
    [
        (lambda folder: (folder / "empty.txt").unlink(), "empty.txt: missing"),
        (lambda folder: (folder / "empty.txt").write_text("x"), "empty.txt: 1 bytes instead of 0"),
        (
            lambda folder: os.truncate(folder / "model.safetensors", 7),
            "model.safetensors: 7 bytes instead of 3,000,000",
        ),
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json: missing, so the checkpoint was never finished"),
        (lambda folder: (folder / "extra.safetensors").touch(), "extra.safetensors: not in the manifest"),
        (
            lambda folder: (folder / "model.safetensors.index.json").touch(),
            "model.safetensors.index.json: not in the manifest",
        ),
    ],
)
def test_missing_cut_and_added_files_are_seen_without_reading(folder, harm, damage):
    harm(folder)
    assert verify(folder, deep=False) == verify(folder, deep=True) == [damage]


def test_files_that_nobody_loads_by_name_are_ignored(folder):
    (folder / "notes.txt").write_text("mine")
    assert verify(folder, deep=True) == []


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside", "", ".", "..", "a//b", "./empty.txt"])
def test_names_that_lead_elsewhere_are_damages(folder, name):
    (folder.parent / "outside").write_text("secret")
    rewrite(folder, lambda content: content["files"].update({name: {"size": 6, "hash": "0" * 32}}))
    (damage,) = verify(folder, deep=True)
    assert "leads out of the checkpoint" in damage


@pytest.mark.parametrize("what", ["file", "folder", "manifest"])
def test_symbolic_links_are_damages(folder, tmp_path, what):
    name = {"file": "model.safetensors", "folder": "ranks", "manifest": MANIFEST}[what]
    (folder / name).rename(tmp_path / "moved")
    (folder / name).symlink_to(tmp_path / "moved")
    (damage,) = verify(folder, deep=True)
    assert "symbolic link" in damage or "in a regular file" in damage


def test_special_files_are_damages_and_do_not_block(folder):
    (folder / "empty.txt").unlink()
    os.mkfifo(folder / "empty.txt")
    assert verify(folder, deep=True) == ["empty.txt: not a regular file"]
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
    assert verify(folder, deep=True) == ["manifest.json: not a JSON object in a regular file"]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(step="3"),
        lambda content: content.update(step=-1),
        lambda content: content.update(step=True),
        lambda content: content.pop("step"),
        lambda content: content.update(time=float("inf")),
        lambda content: content.update(time=float("nan")),
        lambda content: content.update(time=None),
        lambda content: content.update(files=[]),
        lambda content: content.update(info=None),
        lambda content: content.update(format=2),
        lambda content: content.update(hash="md5"),
        lambda content: content["files"].update(a=1),
        lambda content: content["files"].update(a={"size": "1", "hash": ""}),
        lambda content: content["files"].update({"a\0b": {"size": 1, "hash": ""}}),
        lambda content: content["files"].update({"\ud800": {"size": 1, "hash": ""}}),
    ],
)
def test_wrong_types_in_a_manifest_are_damages(folder, change):
    rewrite(folder, change)
    assert len(verify(folder, deep=True)) == 1


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000, b'{"format": 1}'])
def test_a_manifest_that_is_none_is_a_damage(folder, data):
    (folder / MANIFEST).write_bytes(data)
    (damage,) = verify(folder, deep=True)
    assert damage.startswith(MANIFEST)
    with pytest.raises(CheckpointError):
        read_manifest(folder)


def test_what_is_no_plain_file_is_refused_when_saving(tmp_path):
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="link"):
        write_manifest(tmp_path, 0, {})
