"""Which weight of a family is which weight of the decoder, as data, and the walk that applies it in both directions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ironloom.errors import CheckpointError

_LAYER = re.compile(r"\.layers\.(\d+)\.")
_SHOWN = 10


@dataclass(frozen=True)
class Rule:
    """One weight of the decoder and where a family keeps it. ``*`` in the names is the number of a layer.

    Attributes:
        ours: Name in the decoder.
        theirs: Name in the family.
        transposed: Whether the family keeps the matrix as ``[in, out]``.
        part: Which of how many equal parts of their tensor (queries, keys and values side by side); parts lie along the outputs.
        offset: What the family leaves out of each number: ours is theirs plus it.
    """

    ours: str
    theirs: str
    transposed: bool = False
    part: tuple[int, int] = (0, 1)
    offset: float = 0.0

    def in_layer(self, number: str) -> Rule:
        """The rule for one layer."""
        names = (self.ours.replace("*", number), self.theirs.replace("*", number))
        return Rule(*names, self.transposed, self.part, self.offset)

    def to_ours(self, theirs: Tensor) -> Tensor:
        """Our weight, in their tensor's dtype; in float32 where a number is added, which a narrower type would round."""
        whole = theirs.T if self.transposed else theirs
        index, count = self.part
        if whole.shape[0] % count:
            raise CheckpointError(f"{self.theirs} of shape {list(theirs.shape)} cannot be cut into {count} parts")
        piece = whole.chunk(count)[index]
        return piece.contiguous() if self.offset == 0.0 else piece.float() + self.offset

    def to_theirs(self, ours: Tensor) -> Tensor:
        """The piece of their weight that ours is."""
        piece = ours if self.offset == 0.0 else ours.float() - self.offset
        return piece.T.contiguous() if self.transposed else piece


def rules_for(names: Iterable[str], rules: Collection[Rule]) -> dict[str, Rule]:
    """The rule of each weight of a decoder, by its name.

    Raises:
        CheckpointError: If the family has no place for a weight.
    """
    patterns, found, homeless = {rule.ours: rule for rule in rules}, {}, []
    for name in names:
        layer = _LAYER.search(name)
        rule = patterns.get(_LAYER.sub(".layers.*.", name))
        if rule is None:
            homeless.append(name)
        else:
            found[name] = rule.in_layer(layer[1] if layer else "")
    if homeless:
        raise CheckpointError(f"the other side has no place for {_list(homeless)}")
    return found


def weights_to_ours(theirs: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], rules: Collection[Rule]) -> dict[str, Tensor]:
    """Every weight of a decoder from a family's tensors, each used, none left.

    Args:
        theirs: By name.
        shapes: Of the decoder's weights, by name.
        rules: Of the family.

    Raises:
        CheckpointError: Naming every tensor that is missing, left over, or of another shape.
    """
    made, misfits = {}, []
    concrete = rules_for(shapes, rules)
    for name, rule in concrete.items():
        if rule.theirs not in theirs:
            misfits.append(f"missing: {rule.theirs}")
            continue
        made[name] = rule.to_ours(theirs[rule.theirs])
        if made[name].shape != shapes[name]:
            found, wanted = list(theirs[rule.theirs].shape), list(shapes[name])
            misfits.append(f"shape: {rule.theirs} is {found} in the files, which gives {list(made[name].shape)} for {name} of {wanted}")
    misfits += [f"unexpected: {name}" for name in sorted(theirs.keys() - {rule.theirs for rule in concrete.values()})]
    if misfits:
        raise CheckpointError("the weights are not those that config.json describes:\n  " + "\n  ".join(dict.fromkeys(misfits[:_SHOWN])))
    return made


def weights_to_theirs(ours: Mapping[str, Tensor], rules: Collection[Rule]) -> dict[str, Tensor]:
    """Every weight of a family from a decoder's.

    Raises:
        CheckpointError: If a weight has no place, or parts of one are missing.
    """
    pieces: dict[str, dict[int, Tensor]] = {}
    whole: dict[str, Rule] = {}
    for name, rule in rules_for(ours, rules).items():
        pieces.setdefault(rule.theirs, {})[rule.part[0]] = rule.to_theirs(ours[name])
        whole[rule.theirs] = rule
    made = {}
    for name, parts in pieces.items():
        rule = whole[name]
        if len(parts) != rule.part[1]:
            raise CheckpointError(f"{name} is made of {rule.part[1]} weights, of which {len(parts)} are there")
        ordered = [parts[index] for index in range(rule.part[1])]
        along = -1 if rule.transposed else 0
        made[name] = ordered[0] if len(ordered) == 1 else torch.cat(ordered, dim=along)
    return made


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
