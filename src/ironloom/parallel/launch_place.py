"""Whether the port where machines are to meet can be had on this one."""

from __future__ import annotations

import errno
import queue
import socket
import threading

from ironloom.errors import ResourceError

# Seconds in which a launcher of the same run answers.
_ANSWER = 10


def check_port(host: str, port: int, may_be_shared: bool) -> None:
    """Refuse a port that something else has; PyTorch would end with a stack trace, or wait for an answer that never comes.

    Args:
        host: This machine, as the others call it.
        port: Where this launcher is to listen.
        may_be_shared: A launcher of the same run, on this machine too, may listen there already.

    Raises:
        ResourceError: Naming the port.
    """
    if _is_free(port) or (may_be_shared and _is_store(host, port)):
        return
    raise ResourceError(
        f"--rdzv {host}:{port}: port {port} of this machine is in use by another program; end it, or give another port, "
        "the same on each machine"
    )


def _is_free(port: int) -> bool:
    """Whether a store could listen there. Nothing listens meanwhile, so that another launcher that looks too is not misled."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def _is_store(host: str, port: int) -> bool:
    """Whether what listens there is a store of PyTorch.

    Of something else a client waits for an answer for minutes, whatever its time limit: a thread does so, until this process ends.
    """
    from torch._C._distributed_c10d import TCPStore
    from torch.distributed import DistError

    try:
        socket.create_connection((host, port), _ANSWER).close()
    except OSError:
        return False
    answered: queue.Queue[bool] = queue.Queue()

    def ask() -> None:
        try:
            TCPStore(host, port, is_master=False, wait_for_workers=False)
        except DistError:
            answered.put(False)
        else:
            answered.put(True)

    threading.Thread(target=ask, name="rendezvous", daemon=True).start()
    try:
        return answered.get(timeout=_ANSWER)
    except queue.Empty:
        return False
