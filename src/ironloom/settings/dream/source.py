"""From a place in Python source to the line and column of one argument there. Parses, executes nothing."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Mapping

from ironloom.errors import Origin
from ironloom.settings.dream.places import Place

Step = str | int


class Sources:
    """Parsed source files.

    Args:
        shown: How to call a file in messages, by its absolute name.
    """

    def __init__(self, shown: Mapping[str, str] | None = None):
        self._shown = dict(shown or {})
        self._trees: dict[str, ast.Module | None] = {}

    def origin(self, place: Place, *path: Step, other_names: Mapping[str, str] | None = None) -> Origin:
        """Where what ``path`` leads to stands in the expression at ``place``; the nearest thing around it that is written there.

        Args:
            place: A call, or the target of an assignment.
            path: The name of an argument, then names and indices inside its value.
            other_names: Names that stand for another one (the key), by the other name.
        """
        node = self._expression(place)
        line, column = place.line, place.column
        names = other_names or {}
        for step in path:
            found = None if node is None else self._inside(node, step, names, place.file)
            if found is None:
                break
            mark, node = found
            line, column = mark.lineno, mark.col_offset
        return Origin(self._shown.get(place.file, place.file), line, column + 1)

    def items(self, place: Place, name: str) -> list[str]:
        """What is called, by its last name, in each item of the list that is the argument ``name`` at a place."""
        node = self._expression(place)
        found = None if node is None else self._inside(node, name, {}, place.file)
        value = None if found is None else self._followed(found[1], place.file)
        while isinstance(value, ast.Call):  # a collection made of a list, or filtered
            if isinstance(value.func, ast.Attribute) and isinstance(value.func.value, ast.Call):
                value = value.func.value
            elif len(value.args) == 1:
                value = self._followed(value.args[0], place.file)
            else:
                return []
        return [_called(self._followed(item, place.file)) for item in value.elts] if isinstance(value, (ast.List, ast.Tuple)) else []

    def field(self, file: str, class_name: str, name: str) -> Origin | None:
        """Where the class ``class_name`` of a file declares its field ``name``."""
        tree = self.tree(file)
        scope: list[ast.stmt] = tree.body if tree else []
        for part in class_name.split("."):
            owner = next((node for node in scope if isinstance(node, ast.ClassDef) and node.name == part), None)
            if owner is None:
                return None
            scope = owner.body
        for node in scope:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                return Origin(self._shown.get(file, file), node.lineno, node.col_offset + 1)
        return None

    def tree(self, file: str) -> ast.Module | None:
        """The syntax tree of a file; None if it cannot be read or parsed."""
        if file not in self._trees:
            try:
                self._trees[file] = ast.parse(pathlib.Path(file).read_bytes())
            except (OSError, SyntaxError, ValueError):
                self._trees[file] = None
        return self._trees[file]

    def _expression(self, place: Place) -> ast.expr | None:
        """The call at a place, or the value that is assigned there."""
        wanted = (place.line, place.column, place.end_line, place.end_column)
        tree = self.tree(place.file)
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.Call) and _extent(node) == wanted:
                return node
            if isinstance(node, ast.Assign) and any(_extent(target) == wanted for target in node.targets):
                return _Assigned(node.value)
        return None

    def _inside(self, node: ast.expr, step: Step, names: Mapping[str, str], file: str) -> tuple[ast.expr | ast.keyword, ast.expr] | None:
        """What marks the part ``step`` of an expression, and that part."""
        if isinstance(node, _Assigned):
            return node.value, node.value
        node = self._followed(node, file)
        if isinstance(node, ast.IfExp):
            node = node.body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call):
            node = node.func.value  # Collection([...]).filter(None)
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg is not None and step in (keyword.arg, names.get(keyword.arg)):
                    return keyword, keyword.value
            if isinstance(step, int) and len(node.args) == 1 and isinstance(node.args[0], (ast.List, ast.Tuple)):
                node = node.args[0]  # a collection that is made of a list
            elif isinstance(step, int):
                args = node.args[1:] if ast.unparse(node.func).endswith("partial") else node.args
                return (args[step], args[step]) if step < len(args) else None
        if isinstance(node, (ast.List, ast.Tuple)) and isinstance(step, int) and step < len(node.elts):
            return node.elts[step], node.elts[step]
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == step:
                    return key, value
        return None

    def _followed(self, node: ast.expr, file: str) -> ast.expr:
        """What a name of the file stands for, if it is assigned once."""
        tree = self.tree(file)
        for _ in range(8):  # a name of a name of a name
            if not isinstance(node, ast.Name) or tree is None:
                return node
            name = node.id
            values = [
                each.value
                for each in tree.body
                if isinstance(each, ast.Assign) and any(isinstance(target, ast.Name) and target.id == name for target in each.targets)
            ]
            if len(values) != 1:
                return node
            node = values[0]
        return node


class _Assigned(ast.expr):
    """The value of an assignment, which is marked by itself."""

    def __init__(self, value: ast.expr):
        super().__init__()
        self.value = value


def _called(item: ast.expr) -> str:
    """The last name of what an item calls, in one branch if it is conditional."""
    if isinstance(item, ast.IfExp):
        return _called(item.body) or _called(item.orelse)
    name = item.func if isinstance(item, ast.Call) else item
    return ast.unparse(name).rpartition(".")[2] if isinstance(name, (ast.Name, ast.Attribute)) else ""


def _extent(node: ast.expr) -> tuple[int, int, int | None, int | None]:
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset
