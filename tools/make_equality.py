"""Write what the tests measured into docs/equality.md.

    python tools/make_equality.py REPORT.xml ...

REPORT.xml is what pytest writes with ``--junitxml``; ``make equality`` runs the tests and this.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/equality.md"
sys.path.insert(0, str(ROOT / "tests"))


def measured(reports: Iterable[str]) -> dict[str, str]:
    """What the tests noted, by mode and model."""
    return {note.attrib["name"]: note.attrib["value"] for report in reports for note in ElementTree.parse(report).iter("property")}


def main() -> None:
    """Replace everything from the first table on."""
    from parallel.equality import MARK, tables

    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.partition(MARK)[0] + MARK + tables(measured(sys.argv[1:])), encoding="utf-8")


if __name__ == "__main__":
    main()
