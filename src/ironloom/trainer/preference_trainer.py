"""The trainer of preferences: the one loop, with pairs, their reference and the loss that compares both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ironloom.data.mixture import Mixture
from ironloom.data.preferences import collate_pairs
from ironloom.errors import ConfigError
from ironloom.objectives.dpo import DPO, PreferenceLoss
from ironloom.trainer.evaluating import named
from ironloom.trainer.reference import Referenced, content_of, reference_of, start_of
from ironloom.trainer.trainer import Trainer


class PreferenceTrainer(Trainer):
    """Trains on pairs of answers, the first of which is to be preferred (DPO and its relatives).

    Takes the arguments of :class:`Trainer`, whose data are pairs (see :class:`ironloom.data.preferences.PreferencePairs`), and
    those below. The reference is the model as it is before training; its log-probabilities are computed then, if the cache
    does not have them, so that there is never a second model.

    Args:
        loss: See :class:`ironloom.objectives.DPO`, as for the next two.
        beta: How strongly the model is held to the reference.
        label_smoothing: Chance that a label is wrong.
        test_dataset: Pairs that will be evaluated after training: their reference, too, is computed before it.
        reference_cache: The cache, see ``data.cache.cache_root``.

    Raises:
        ConfigError: For arguments that are wrong, or do not fit each other.
    """

    def __init__(
        self,
        *args: Any,
        loss: PreferenceLoss = "sigmoid",
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        test_dataset: Any = None,
        reference_cache: str | Path | None = None,
        **kwargs: Any,
    ):
        self._preference = DPO(loss, beta, label_smoothing)
        self.test_dataset = test_dataset
        self._reference_cache = reference_cache
        self._references: dict[str, Any] = {}
        self._start: str | None = None
        super().__init__(*args, **kwargs)
        if self.compute_loss_func is not None:
            raise ConfigError("compute_loss_func: preferences have a loss of their own (loss, beta, label_smoothing)")
        if self.data_collator is None:
            self.data_collator = collate_pairs
        # Pairs have columns that no model's forward names.
        self.args.remove_unused_columns = False

    def _objective(self, loader: Any) -> DPO:
        return self._preference

    def _loader(self, dataset: Any, training: bool) -> Any:
        return super()._loader(self._with_reference(dataset), training)

    def _with_reference(self, dataset: Any) -> Referenced | Mixture:
        """The pairs with their reference, which all data of the trainer get when the first are asked for."""
        if isinstance(dataset, Mixture):
            return dataset.replaced(self._with_reference)
        wanted = content_of(dataset)
        if wanted not in self._references:
            self._check_degrees()
            engine = self._prepared_engine(None)
            start = start_of(engine, self.team)
            if self._start not in (None, start):
                raise ConfigError(
                    "the reference of these pairs is the model as it was before training, which is gone: "
                    "give them as test_dataset (or eval_dataset) when the trainer is made"
                )
            self._start = start
            for each in (dataset, *self._all_pairs()):
                if content_of(each) not in self._references:
                    self._references[content_of(each)] = self._reference(engine, each, start)
        return Referenced(dataset, self._references[wanted])

    def _all_pairs(self) -> list[Any]:
        """The data of the trainer, of a mixture its sources."""
        given = [part for data in (self.train_dataset, self.eval_dataset, self.test_dataset) if data is not None for _, part in named(data)]
        return [part for data in given for part in (data.sources.values() if isinstance(data, Mixture) else [data])]

    def _reference(self, engine: Any, pairs: Any, start: str) -> Any:
        assert self.data_collator is not None
        batch_size = self.args.per_device_eval_batch_size
        return reference_of(engine, self._preference, pairs, self.data_collator, batch_size, start, self._reference_cache, self.team)

    def _check_degrees(self) -> None:
        degrees = self.team.place.degrees
        if max(degrees.tp, degrees.cp, degrees.pp) > 1:
            raise ConfigError("preferences are not available yet where processes share layers, sequences or stages: use data parallelism")
