"""Projects: folders with a ``meta.yaml``, their configurations, options and search paths, and what they share."""

from ironloom.config.projects.choose import choose
from ironloom.config.projects.declared import declared
from ironloom.config.projects.importing import FROM_PROJECT, complete, from_project, use_modules
from ironloom.config.projects.options import Option
from ironloom.config.projects.project import Project, find, read, search_path
from ironloom.config.projects.words import is_option, take

__all__ = [
    "FROM_PROJECT",
    "Option",
    "Project",
    "choose",
    "complete",
    "declared",
    "find",
    "from_project",
    "is_option",
    "read",
    "search_path",
    "take",
    "use_modules",
]
