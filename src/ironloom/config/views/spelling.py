"""How Python spells the values of a graph: leaves, containers, arguments, arithmetic."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from ironloom.config import calculate, scalars
from ironloom.config.graph import Calc
from ironloom.config.views.layout import Code, Group, prefixed
from ironloom.config.views.names import Names, is_name
from ironloom.errors import ConfigError, Problem


def names_in(calc: Calc) -> list[str]:
    """The variables of a calculation.

    Raises:
        ConfigError: If it is no arithmetic.
    """
    try:
        return calculate.names(calc.expression)
    except ValueError as error:
        raise ConfigError(Problem(str(error), origin=calc.origin)) from None


def calculation(calc: Calc, names: Names, parameters: Mapping[str, str]) -> str:
    """The arithmetic of a calculation; ``parameters`` are what its variables are called."""
    tree = ast.parse(calc.expression.strip(), mode="eval")
    return f"({ast.unparse(_Spelling(names, parameters).visit(tree))})"


class _Spelling(ast.NodeTransformer):
    """The arithmetic of a calculation as Python: parameters by their names, functions and powers as ours."""

    def __init__(self, names: Names, parameters: Mapping[str, str]):
        self._names = names
        self._parameters = parameters

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A variable."""
        return ast.Name(self._parameters[node.id], ast.Load())

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """One of the functions of calculations."""
        assert isinstance(node.func, ast.Name)
        function = calculate.FUNCTIONS[node.func.id]
        name = self._names.target(f"{function.__module__}:{function.__name__}")
        return ast.Call(ast.Name(name, ast.Load()), [self.visit(arg) for arg in node.args], [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """An operation; a power has a result of limited size."""
        left, right = self.visit(node.left), self.visit(node.right)
        if not isinstance(node.op, ast.Pow):
            return ast.BinOp(left, node.op, right)
        return ast.Call(ast.Name(self._names.target("ironloom.config.calculate:power"), ast.Load()), [left, right], [])

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        """A tuple, which calculations take for a list."""
        return ast.List([self.visit(part) for part in node.elts], ast.Load())


def brackets(value: Any, parts: list[tuple[Any, Code]]) -> Code:
    """A dict, list or tuple of expressions."""
    if type(value) is dict:
        return Group("{", tuple(prefixed(f"{literal(key)}: ", code) for key, code in parts), "}")
    opening, closing = "[]" if type(value) is list else "()"
    return Group(
        opening, tuple(code for _, code in parts), closing, comma="always" if type(value) is tuple and len(parts) == 1 else "broken"
    )


def keywords(kwargs: dict[str, Code]) -> tuple[Code, ...]:
    """Keyword arguments in their order; those whose names Python would not take in a call stand in a dict."""
    return tuple(
        prefixed(f"{key}=", code) if is_name(key) else Group("**{", (prefixed(f"{literal(key)}: ", code),), "}")
        for key, code in kwargs.items()
    )


def literal(value: Any) -> str:
    """A leaf as Python spells it.

    Raises:
        TypeError: If it is none of null, truth value, number, text.
    """
    scalars.write(value)
    text = repr(value)
    if isinstance(value, str):
        return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text else text
    return f'float("{text}")' if text in ("inf", "-inf", "nan") else text
