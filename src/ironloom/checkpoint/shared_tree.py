"""Trees of which every process has some entries: written as one tree, by all of them. And state that may differ between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from ironloom.checkpoint.tree import Packer, encoded, load_tree, pack, packed_pairs
from ironloom.weights.parts import MAX_SHARD_BYTES, BytesPart, Part, agreed_plan, planned_parts
from ironloom.weights.peers import ALONE, Peers
from ironloom.weights.tensors import as_bytes


def tree_parts(
    tree: dict[str, Any],
    name: str,
    peers: Peers,
    *,
    split: str | None = None,
    writers: tuple[int, ...] | None = None,
    hold: bool = False,
) -> Iterator[Part]:
    """The files of a tree that this process writes; read with :func:`ironloom.checkpoint.tree.load_tree`.

    Every process iterates over all of its parts. The tree is the same in every process but for the entry ``split``, a
    mapping by text of which each process has some entries; its tensors may be DTensors.

    Args:
        tree: What this process has.
        name: Name of the files.
        peers: Those that save together.
        split: The entry that is put together from all processes; None where all have everything.
        writers: Ranks that write tensors; None: all.
        hold: Copy what the next step would change: the parts are written later.

    Raises:
        TypeError: For what cannot be stored; in every process.
    """
    packer = Packer(sharded=True)
    value, entries = peers.together(lambda: _packed(packer, tree, split))
    if split is not None:
        merged: dict[str, Any] = {}
        for _, some in peers.distinct(entries, json.dumps(entries)):
            merged |= {key: entry for key, entry in some.items() if key not in merged}
        value[split] = merged if _is_plain(merged) else packed_pairs([[packer.pack(key, ()), entry] for key, entry in merged.items()])
    max_bytes = float("inf") if peers.size == 1 else MAX_SHARD_BYTES
    plan = agreed_plan(packer.tensors, {}, name, peers, writers, max_bytes)
    yield from planned_parts(plan, packer.tensors, name, peers, hold=hold)
    if peers.rank == 0:
        yield BytesPart(f"{name}.json", encoded(value, len(plan.tensors)))


def differing_parts(state: Any, name: str, peers: Peers) -> list[Part]:
    """The files of what this process has otherwise than the first; none where it is the same. Every process calls this.

    Raises:
        TypeError: For what cannot be stored; in every process.
    """
    if peers.size == 1:
        return []
    digests = peers.gather(peers.together(lambda: _digest(state)))
    if digests[peers.rank] == digests[0]:
        return []
    return list(tree_parts({"world": peers.size, "state": state}, _of_rank(name, peers.rank), ALONE, hold=True))


def load_differing(folder: Path, name: str, peers: Peers, first: Any) -> Any:
    """What :func:`differing_parts` stored of this process, ``first`` if there is nothing or as many processes are no more.

    Raises:
        CheckpointError: If a file is damaged.
    """
    if not (folder / f"{_of_rank(name, peers.rank)}.json").exists():
        return first
    tree = load_tree(folder, _of_rank(name, peers.rank))
    return tree["state"] if tree["world"] == peers.size else first


def _of_rank(name: str, rank: int) -> str:
    return f"{name}-rank-{rank:05d}"


def _digest(state: Any) -> str:
    value, tensors = pack(state)
    digest = xxhash.xxh3_128(json.dumps(value).encode())
    for tensor in tensors.values():
        digest.update(as_bytes(tensor).cpu().numpy().tobytes())
    return str(digest.hexdigest())


def _packed(packer: Packer, tree: dict[str, Any], split: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """JSON of a tree, and that of the entries of the one that is split."""
    value = {key: None if key == split else packer.pack(item, (key,)) for key, item in tree.items()}
    if split is None:
        return value, {}
    return value, {key: packer.pack(item, (split, key)) for key, item in tree[split].items()}


def _is_plain(entries: dict[str, Any]) -> bool:
    return "$" not in entries and all(key.isascii() for key in entries)
