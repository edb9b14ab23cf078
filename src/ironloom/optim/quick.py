"""PyTorch's optimizers without the compiler that their methods import.

``torch.optim`` wraps its methods so that ``torch.compile`` leaves them alone, and the wrappers import
the compiler when they are first called: about two seconds at every start, and some microseconds a
step. Here the same methods are used without their wrappers.
"""

from __future__ import annotations

import inspect

from torch.optim import Optimizer


class Quick(Optimizer):
    """What every optimizer does, without the wrappers; stands before PyTorch's class among the bases."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or fill them with zeros; without the profiler's record of it."""
        if not set_to_none:
            inspect.unwrap(Optimizer.zero_grad)(self, set_to_none=False)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
