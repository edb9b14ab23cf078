"""Several processes: who they are, how a model is spread over them, how they agree. Knows no loop.

Nothing here imports ``torch.distributed`` before a second process is there.
"""

from ironloom.parallel.environment import DistributedEnvironment, main_process_first

__all__ = ["DistributedEnvironment", "main_process_first"]
