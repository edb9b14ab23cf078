"""The events of a run.

The loop, in the order in which the events fire::

    on_init_end                             the trainer is constructed
    on_train_begin                          state is new or restored
    for each epoch:
        on_epoch_begin
        for each optimizer step:
            on_step_begin
            for each micro-batch but the last:  forward, backward;  on_substep_end
            forward, backward, clip;            on_pre_optimizer_step
            optimizer.step();                   on_optimizer_step
            scheduler.step(), zero_grad()
            on_step_end                     control is acted upon now:
                on_log                      if control.should_log
                on_prediction_step ...      if control.should_evaluate, for each batch
                on_evaluate                 after the evaluation
                on_save                     if control.should_save
        on_epoch_end                        control is acted upon once more
    on_train_end
    on_predict                              after trainer.predict()
    on_push_begin                           before trainer.push_to_hub() uploads
"""

from __future__ import annotations

from typing import Any, Self

from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.settings.training import TrainingArguments

EVENTS = (
    "on_init_end",
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_step_begin",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_substep_end",
    "on_step_end",
    "on_evaluate",
    "on_predict",
    "on_save",
    "on_log",
    "on_prediction_step",
    "on_push_begin",
)


def _event(name: str, when: str) -> Any:
    def handler(self: Any, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        return None

    handler.__name__ = name
    handler.__qualname__ = f"TrainerCallback.{name}"
    handler.__doc__ = when
    return handler


class TrainerCallback:
    """Base of callbacks; every method may be left out.

    Each handler gets ``args, state, control`` and the keywords ``model``, ``processing_class``,
    ``optimizer``, ``lr_scheduler``, ``train_dataloader``, ``eval_dataloader``; ``on_log`` also
    ``logs``, ``on_evaluate`` and ``on_predict`` also ``metrics``. It may change ``control`` in place
    or return a new one. A callback with ``state_dict()`` and ``load_state_dict(state)`` is saved in
    checkpoints and restored from them. Callbacks written for ``transformers`` work as they are.

    What a callback was constructed with is kept in ``_recorded``, so that a configuration written as
    code can be turned into text.
    """

    _recorded: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments; ``__init__`` gets them as usual."""
        if cls.__init__ is object.__init__ and (args or kwargs):  # object.__init__ leaves this check to us
            raise TypeError(f"{cls.__name__}() takes no arguments")
        callback = super().__new__(cls)
        object.__setattr__(callback, "_recorded", (args, kwargs))  # a frozen dataclass allows nothing else
        return callback

    on_init_end = _event("on_init_end", "The trainer is constructed.")
    on_train_begin = _event("on_train_begin", "Training starts or goes on.")
    on_train_end = _event("on_train_end", "Training is over.")
    on_epoch_begin = _event("on_epoch_begin", "An epoch starts or goes on.")
    on_epoch_end = _event("on_epoch_end", "An epoch is over.")
    on_step_begin = _event("on_step_begin", "An optimizer step starts.")
    on_pre_optimizer_step = _event("on_pre_optimizer_step", "Gradients are complete and clipped.")
    on_optimizer_step = _event("on_optimizer_step", "The optimizer has stepped; gradients are still there.")
    on_substep_end = _event("on_substep_end", "A micro-batch that is not the last of its step is done.")
    on_step_end = _event("on_step_end", "An optimizer step is over.")
    on_evaluate = _event("on_evaluate", "An evaluation is over.")
    on_predict = _event("on_predict", "A prediction is over.")
    on_save = _event(
        "on_save",
        "A checkpoint is complete: the folder ``checkpoint``, of the step ``step``, which lies back where it was saved in the background.",
    )
    on_log = _event("on_log", "A log record is made.")
    on_prediction_step = _event("on_prediction_step", "A batch of an evaluation is done.")
    on_push_begin = _event("on_push_begin", "An upload to the hub starts.")
