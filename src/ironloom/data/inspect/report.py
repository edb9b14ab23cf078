"""What there is to be said about the data of a run: plain values, which print as JSON under the names they have here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from ironloom.data.inspect.duplicates import Duplicates, Leak
from ironloom.data.inspect.lengths import Lengths
from ironloom.data.inspect.records import Broken
from ironloom.data.inspect.rows import Packing, Row
from ironloom.data.inspect.text import Sample

FORMAT = 1


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        level: ``error`` for what is wrong, ``warning`` for what is only noteworthy.
        kind: ``broken_records``, ``unreadable_source``, ``not_prepared``, ``unusable``, ``damaged_store``, ``outside_vocabulary``,
            ``nothing_trained``, ``leak`` (errors); ``duplicates``, ``long_documents``, ``empty_documents``, ``preparing`` (warnings).
        where: The name of a store or of a list of datasets.
        count: How many records, tokens, documents.
        message: The same in words.
    """

    level: Literal["error", "warning"]
    kind: str
    where: str
    count: int
    message: str


@dataclass(frozen=True)
class StoreReport:
    """What there is to be said about one store.

    Attributes:
        folder: Where it lies.
        fingerprint: That of its content.
        documents: How many there are.
        tokens: How many they have.
        lengths: Of the documents; None if there is none.
        longer: Documents that are longer than a sequence.
        packings: What the ways of packing give.
        trained: Tokens that the model has to produce; None where it has to produce all.
        weight: What these weigh together in the loss; None where each weighs 1.
        masked: Share of the tokens that it is only given; 0 where it has to produce all.
        untrained: Documents without a token that the model has to produce.
        empty: Documents that hold nothing but an end token.
        vocab_size: Ids of the vocabulary.
        unused: Ids of it that do not occur.
        outside: Tokens that are not in it.
        counts: What was left out or changed while it was prepared, by reason.
        duplicates: Samples with the same tokens.
        parts: The samples that are used for ``training``, ``evaluation`` and ``test``: the first, and the one behind the last.
        samples: A few documents.
        rows: A few rows of several documents; none where documents have rows of their own.
    """

    folder: str
    fingerprint: str
    documents: int
    tokens: int
    lengths: Lengths | None
    longer: int
    packings: list[Packing]
    trained: int | None
    weight: float | None
    masked: float
    untrained: int
    empty: int
    vocab_size: int
    unused: int
    outside: int
    counts: dict[str, int]
    duplicates: Duplicates
    parts: dict[str, tuple[int, int]]
    samples: list[Sample]
    rows: list[Row]


@dataclass(frozen=True)
class Report:
    """What there is to be said about the data of a run.

    Attributes:
        configuration: The file that names them.
        kinds: What the documents of a sample are in turn, such as ``pretrain``; ``dpo_chosen`` and ``dpo_rejected``.
        seq_length: Tokens of a sequence.
        stores: By name.
        leaks: Held-out samples that are in the training data.
        broken: What is wrong with the sources, by name; empty if everything could be prepared.
        findings: What is wrong, and what is noteworthy.
    """

    configuration: str
    kinds: tuple[str, ...]
    seq_length: int
    stores: dict[str, StoreReport] = field(default_factory=dict)
    leaks: list[Leak] = field(default_factory=list)
    broken: dict[str, Broken] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.level != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"format": FORMAT, "good": self.is_good, **dataclasses.asdict(self)}
