"""The store through which ranks and launcher watch each other. A connection of its own: a wait on it holds up nobody else."""

from __future__ import annotations

import datetime
from typing import Any

#: Seconds to wait for an answer.
TIMEOUT = 60.0


def open_store(host: str, port: int, token: str, *, serve: bool = False, timeout: float = TIMEOUT) -> Any:
    """Connect to the store of a run.

    Args:
        host: Where it is: ``MASTER_ADDR``.
        port: Its port: ``MASTER_PORT``.
        token: Names this start of the ranks; another start has another one, and begins with an empty store.
        serve: Hold the store in this process: rank 0 where no launcher does. The process group shares it.
        timeout: Seconds to wait for an answer.
    """
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    patience = datetime.timedelta(seconds=timeout)
    store = TCPStore(host, port, None, serve, patience, wait_for_workers=False, multi_tenant=True)
    return PrefixStore(f"ironloom/{token}", store)
