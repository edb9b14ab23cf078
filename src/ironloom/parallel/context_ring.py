"""Causal attention in which keys and values go round a ring of processes: none of them ever holds those of the whole sequence.

Each process attends with its queries to the keys that it has at the moment, passes these on, and merges what it got by the
logarithm of the sums of exponentials (Liu et al. 2023, arXiv:2310.01889; the merging of Milakov and Gimelshein 2018,
arXiv:1805.02867). In the backward pass keys and values go round once more, with the gradients that they have
collected so far. Scores are computed in float32, a few rows at a time, by plain products on any device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ironloom.parallel.context import Layout

#: Elements of scores that are held at a time.
CPU_SCORES, DEVICE_SCORES = 2**22, 2**27


@dataclass(frozen=True)
class Ring:
    """How queries look at keys.

    Attributes:
        layout: Who holds what.
        group: The processes that share the sequence.
        mask: As in :func:`attend_ring`.
        dropout: Likewise.
        scale: Likewise.
        window: Likewise.
        seed: Names the dropout of this call in this process.
    """

    layout: Layout
    group: dist.ProcessGroup
    mask: Tensor | None
    dropout: float
    scale: float
    window: int | None
    seed: int

    def blocks(self, queries: Tensor, holder: int) -> Iterator[tuple[slice, slice, Tensor | None, int]]:
        """Rows of the local queries, columns of the keys of ``holder``, where these may look, and the number of the block.

        Blocks in which no query sees a key are left out.
        """
        length = queries.shape[-2] * self.layout.size
        width = length // self.layout.multiple
        limit = CPU_SCORES if queries.device.type == "cpu" else DEVICE_SCORES
        step = max(1, limit // (queries.shape[:-2].numel() * width))
        for own, query_chunk in enumerate(self.layout.chunks_of(self.layout.rank)):
            for other, key_chunk in enumerate(self.layout.chunks_of(holder)):
                for row in range(0, width, step):
                    rows, keys = (query_chunk * width + row, query_chunk * width + min(row + step, width)), key_chunk * width
                    if keys >= rows[1] or (self.window is not None and keys + width <= rows[0] - self.window + 1):
                        continue
                    local = slice(own * width + row, own * width + min(row + step, width))
                    number = (query_chunk * self.layout.multiple + key_chunk) * width + row
                    yield local, slice(other * width, (other + 1) * width), self._seen(queries, rows, keys, width, local), number

    def _seen(self, queries: Tensor, rows: tuple[int, int], first: int, width: int, local: slice) -> Tensor | None:
        """Boolean, to be broadcast to ``[B, G, H / G, rows, width]``; None where all is seen."""
        seen = None
        is_near = self.window is not None and rows[1] - 1 - first >= self.window
        if first + width - 1 > rows[0] or is_near:
            positions = torch.arange(*rows, device=queries.device)[:, None]
            back = positions - torch.arange(first, first + width, device=queries.device)
            seen = back >= 0 if self.window is None else (back >= 0) & (back < self.window)
        if self.mask is not None:
            given = self.mask[:, :, None, local, first : first + width]
            seen = given if seen is None else seen & given
        return seen

    def kept(self, weights: Tensor, number: int) -> Tensor | None:
        """The factors by which dropout multiplies the weights of a block; the same whenever they are asked for."""
        if not self.dropout:
            return None
        generator = torch.Generator(weights.device).manual_seed((self.seed + number) % 2**63)
        drawn = torch.rand(weights.shape, generator=generator, device=weights.device)
        return (drawn >= self.dropout).float() / (1.0 - self.dropout)

    def passed_on(self, tensors: list[Tensor]) -> tuple[list[Tensor], list[Any]]:
        """Send tensors to the next process and receive those of the one before; wait for the requests before they are used."""
        ranks, rank, size = dist.get_process_group_ranks(self.group), self.layout.rank, self.layout.size
        received = [torch.empty_like(tensor) for tensor in tensors]
        operations = []
        for sent, place in zip(tensors, received, strict=True):
            operations.append(dist.P2POp(dist.isend, sent, ranks[(rank + 1) % size], self.group))
            operations.append(dist.P2POp(dist.irecv, place, ranks[(rank - 1) % size], self.group))
        return received, dist.batch_isend_irecv(operations)


def attend_ring(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    layout: Layout,
    group: dist.ProcessGroup,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
    window: int | None = None,
) -> Tensor:
    """As :func:`~ironloom.parallel.context_attention.attend_gathered`, with keys and values that go round."""
    factor = queries.shape[-1] ** -0.5 if scale is None else scale
    seed = int(torch.randint(2**62, ())) if dropout else 0
    ring = Ring(layout, group, mask, dropout, factor, window, seed)
    mixed: Tensor = _RingAttention.apply(queries, keys, values, ring)  # type: ignore[no-untyped-call]
    return mixed


class _RingAttention(torch.autograd.Function):
    """Heads ``[B, H, L, D]``; inside, those of a group are beside each other, ``[B, G, H / G, L, D]``."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, ring: Ring) -> Tensor:
        grouped = _grouped(queries, keys)
        held = [keys.contiguous(), values.contiguous()]
        # Per query: the mixed values and the logarithm of the sum of exponentials, of the keys that were seen so far.
        mixed = torch.zeros(
            *grouped.shape[:-1], values.shape[-1], dtype=torch.promote_types(queries.dtype, torch.float32), device=queries.device
        )
        normaliser = mixed.new_full(grouped.shape[:-1], -torch.inf)
        for turn in range(ring.layout.size):
            coming, requests = ring.passed_on(held) if turn + 1 < ring.layout.size else (held, [])
            holder = (ring.layout.rank - turn) % ring.layout.size
            for rows, columns, seen, number in ring.blocks(grouped, holder):
                _merge(mixed[..., rows, :], normaliser[..., rows], *_block(grouped, held, rows, columns, seen, ring, number))
            for request in requests:
                request.wait()
            held = coming
        result = mixed.flatten(1, 2).to(values.dtype)
        ctx.ring = ring
        ctx.save_for_backward(queries, keys, values, result, normaliser)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        queries, keys, values, result, normaliser = ctx.saved_tensors
        ring: Ring = ctx.ring
        grouped, given = _grouped(queries, keys), _grouped(gradients[0], keys)
        wide = normaliser.dtype
        # The sum of gradient times weight over the keys is that of gradient times result (Dao et al. 2022, arXiv:2205.14135).
        balance = (given.to(wide) * _grouped(result, keys).to(wide)).sum(dim=-1)
        query_gradient = torch.zeros_like(grouped, dtype=wide)
        held = [keys.contiguous(), values.contiguous()]
        collected = [torch.zeros_like(tensor, dtype=wide) for tensor in held]
        for turn in range(ring.layout.size):
            coming, requests = ring.passed_on(held) if turn + 1 < ring.layout.size else (held, [])
            holder = (ring.layout.rank - turn) % ring.layout.size
            for rows, columns, seen, number in ring.blocks(grouped, holder):
                some_queries, some_keys, some_values = (
                    grouped[..., rows, :].to(wide),
                    held[0][:, :, None, columns].to(wide),
                    held[1][:, :, None, columns].to(wide),
                )
                some_given = given[..., rows, :].to(wide)
                weights = _weights(some_queries, some_keys, seen, ring.scale, normaliser[..., rows])
                kept = ring.kept(weights, number)
                dropped = weights if kept is None else weights * kept
                collected[1][:, :, columns] += (dropped.transpose(-1, -2) @ some_given).sum(dim=2)
                towards = some_given @ some_values.transpose(-1, -2)
                towards = towards if kept is None else towards * kept
                towards = weights * (towards - balance[..., rows, None]) * ring.scale
                query_gradient[..., rows, :] += towards @ some_keys
                collected[0][:, :, columns] += (towards.transpose(-1, -2) @ some_queries).sum(dim=2)
            for request in requests:
                request.wait()
            held = coming
            # What was collected for a process's keys goes with them, and at last home.
            if ring.layout.size > 1:
                collected, requests = ring.passed_on(collected)
                for request in requests:
                    request.wait()
        return query_gradient.flatten(1, 2).to(queries.dtype), collected[0].to(keys.dtype), collected[1].to(values.dtype), None


def _grouped(heads: Tensor, keys: Tensor) -> Tensor:
    """``[B, H, ...]`` to ``[B, G, H / G, ...]``."""
    return heads.reshape(heads.shape[0], keys.shape[1], -1, *heads.shape[2:])


def _block(
    grouped: Tensor, held: list[Tensor], rows: slice, columns: slice, seen: Tensor | None, ring: Ring, number: int
) -> tuple[Tensor, Tensor]:
    """What some queries get of some keys: mixed values, and the logarithm of the sum of exponentials."""
    wide = torch.promote_types(grouped.dtype, torch.float32)
    scores = _scores(grouped[..., rows, :].to(wide), held[0][:, :, None, columns].to(wide), seen, ring.scale)
    normaliser = scores.logsumexp(dim=-1)
    weights = _exponentials(scores, normaliser)
    kept = ring.kept(weights, number)
    return (weights if kept is None else weights * kept) @ held[1][:, :, None, columns].to(wide), normaliser


def _scores(queries: Tensor, keys: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    scores = (queries * scale) @ keys.transpose(-1, -2)
    return scores if seen is None else scores.masked_fill(~seen, -torch.inf)


def _weights(queries: Tensor, keys: Tensor, seen: Tensor | None, scale: float, normaliser: Tensor) -> Tensor:
    return _exponentials(_scores(queries, keys, seen, scale), normaliser)


def _exponentials(scores: Tensor, normaliser: Tensor) -> Tensor:
    """``exp(scores - normaliser)``, zero for queries that see nothing."""
    return (scores - normaliser.masked_fill(normaliser == -torch.inf, 0.0)[..., None]).exp()


def _merge(mixed: Tensor, normaliser: Tensor, more: Tensor, more_normaliser: Tensor) -> None:
    """Add what queries got of further keys to what they had, in place."""
    total = torch.logaddexp(normaliser, more_normaliser)
    mixed.mul_(_exponentials(normaliser[..., None], total)).add_(more * _exponentials(more_normaliser[..., None], total))
    normaliser.copy_(total)
