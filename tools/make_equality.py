"""Write what the tests measured into docs/equality.md.

    python tools/make_equality.py [--keep] REPORT.xml ...

REPORT.xml is what pytest writes with ``--junitxml``; ``make equality`` runs the tests and this. What no report holds is an
error; with ``--keep`` the document goes on showing what it shows of it.
"""

from __future__ import annotations

import argparse
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
    from parallel.equality import MARK, shown, tables

    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("reports", nargs="+")
    given = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    noted = (shown(page) if given.keep else {}) | measured(given.reports)
    PAGE.write_text(page.partition(MARK)[0] + MARK + tables(noted), encoding="utf-8")


if __name__ == "__main__":
    main()
