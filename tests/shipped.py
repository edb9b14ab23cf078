"""Every configuration that comes with the program: examples and templates of the library."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
LIBRARY = ROOT / "src/ironloom/library"

#: Configurations that are runs by themselves; presets of single groups are not among them.
CONFIGURATIONS = sorted(
    [
        *EXAMPLES.glob("*.yaml"),
        *EXAMPLES.glob("*.py"),
        *EXAMPLES.glob("*/*/templates/configs/*.yaml"),
        *LIBRARY.glob("templates/projects/*.yaml"),
        *LIBRARY.glob("templates/trainers/*.yaml"),
    ]
)
assert len(CONFIGURATIONS) == 16, CONFIGURATIONS


def label(file: Path) -> str:
    """A configuration's path as a test shows it."""
    return file.relative_to(ROOT).as_posix()
