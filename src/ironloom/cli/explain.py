"""``ironloom explain``: where a value came from. Never imports torch."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ironloom.cli.configuration import ConfigurationWords, split
from ironloom.cli.viewing import show
from ironloom.config.explain import Explanation
from ironloom.config.graph import Step, is_leaf
from ironloom.config.views.tree import headline


def explain(
    words: ConfigurationWords,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
) -> None:
    """Tell where a value came from, step by step, the oldest first; without a key, all values in a table.

    A key is a path in the graph (main.args.max_steps) or one of the configuration (operation.train_steps).

    Example: ironloom explain examples/quickstart.yaml operation.train_steps
    """
    from ironloom.config import explain as explanations

    found = split(words, others=1, own=["--json"])
    key = found.others[0] if found.others else None
    told = explanations.explain_file(found.path, found.overrides, found.arguments, key)
    if as_json:
        import json

        show(json.dumps([_plain(each) for each in told], indent=2) + "\n")
    elif key is None:
        show("".join(f"{line}\n" for line in explanations.table(told)))
    else:
        show("".join(f"{line}\n" for each in told for line in explanations.history(each)))


def _plain(explanation: Explanation) -> dict[str, Any]:
    return {
        "path": explanation.path,
        "keys": list(explanation.keys),
        "value": _value(explanation.value),
        "steps": [_step(step) for step in explanation.steps],
    }


def _step(step: Step) -> dict[str, Any]:
    place = step.origin
    return {"value": _value(step.value), "route": place.route, "source": place.source, "line": place.line, "column": place.column}


def _value(value: Any) -> Any:
    return value if is_leaf(value) else headline(value)
