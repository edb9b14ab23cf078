"""The arithmetic of ``!calc``: numbers, names, operators and a few functions, and nothing else.

Evaluating never runs code of the configuration and always ends: results have a limited size.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "int": int,
    "float": float,
    "round": round,
    "min": min,
    "max": max,
    "abs": abs,
    "len": len,
    "sqrt": math.sqrt,
    "ceil": math.ceil,
    "floor": math.floor,
}
LIMIT_BITS = 4096
LIMIT_LENGTH = 1 << 20


def power(base: Any, exponent: Any) -> Any:
    """``base ** exponent`` of bounded size.

    Raises:
        ValueError: If the result would be too large.
    """
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1 and abs(exponent) * base.bit_length() > LIMIT_BITS:
        raise ValueError(f"{base} ** {exponent} is too large" if base.bit_length() < 64 else "a power is too large")
    return base**exponent


def product(left: Any, right: Any) -> Any:
    """``left * right`` of bounded size.

    Raises:
        ValueError: If the result would be too large.
    """
    for text, count in ((left, right), (right, left)):
        if isinstance(count, int) and hasattr(text, "__len__") and len(text) * count > LIMIT_LENGTH:
            raise ValueError("a repetition is too long")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > LIMIT_BITS:
        raise ValueError("a product is too large")
    return left * right


def remainder(left: Any, right: Any) -> Any:
    """``left % right`` of numbers.

    Raises:
        TypeError: For a text, which ``%`` would format.
    """
    if isinstance(left, str):
        raise TypeError("% takes numbers")
    return left % right


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: product,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: remainder,
    ast.Pow: power,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def names(expression: str) -> list[str]:
    """The variables that an expression needs, in order.

    Raises:
        ValueError: If it is not arithmetic.
    """
    tree = _parse(expression)
    functions = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in functions]
    return list(dict.fromkeys(node.id for node in sorted(found, key=lambda node: (node.lineno, node.col_offset))))


def calculate(expression: str, value: Callable[[str], Any]) -> Any:
    """What an expression amounts to.

    Args:
        expression: Arithmetic: ``+ - * / // % **``, comparisons, ``and or not``, ``a if b else c``, numbers, texts,
            :data:`FUNCTIONS`.
        value: Gives the value of a variable.

    Raises:
        ValueError: If it is not arithmetic, divides by zero, is too large, or mixes what does not mix. What ``value``
            raises passes through.
    """
    tree = _parse(expression)
    given = {name: value(name) for name in names(expression)}
    try:
        return _value(tree, given)
    except (ArithmeticError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot calculate {expression!r}: {error}") from None


def _parse(expression: str) -> ast.expr:
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        for node in ast.walk(tree):
            _look(node, expression)
    except (SyntaxError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
        raise ValueError(f"{expression!r} is not arithmetic: {reason}") from None
    return tree


_HARMLESS = (ast.Name, ast.Load, ast.IfExp, ast.BoolOp, ast.boolop, ast.List, ast.Tuple)


def _look(node: ast.AST, expression: str) -> None:
    """Refuse what is not arithmetic."""
    if isinstance(node, _HARMLESS) or type(node) in (*_BINARY, *_UNARY, *_COMPARE, ast.BinOp, ast.UnaryOp, ast.Compare):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, type(None))):
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id in FUNCTIONS:
            return
        raise ValueError(f"{expression!r} calls {node.func.id!r}; there is " + ", ".join(FUNCTIONS))
    raise ValueError(f"{expression!r} is not arithmetic: {type(node).__name__} is not allowed")


def _value(node: ast.expr, given: dict[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return given[node.id]
        case ast.BinOp():
            return _BINARY[type(node.op)](_value(node.left, given), _value(node.right, given))
        case ast.UnaryOp():
            return _UNARY[type(node.op)](_value(node.operand, given))
        case ast.IfExp():
            return _value(node.body if _value(node.test, given) else node.orelse, given)
        case ast.Call():
            assert isinstance(node.func, ast.Name)
            return FUNCTIONS[node.func.id](*(_value(arg, given) for arg in node.args))
        case ast.List() | ast.Tuple():
            return [_value(item, given) for item in node.elts]
        case ast.BoolOp():
            return _logical(node, given)
        case ast.Compare():
            return _compared(node, given)
    raise AssertionError(f"{type(node).__name__} passed")


def _logical(node: ast.BoolOp, given: dict[str, Any]) -> Any:
    stops = isinstance(node.op, ast.Or)
    found: Any = None
    for part in node.values:
        found = _value(part, given)
        if bool(found) == stops:
            break
    return found


def _compared(node: ast.Compare, given: dict[str, Any]) -> bool:
    left = _value(node.left, given)
    for compare, part in zip(node.ops, node.comparators, strict=True):
        right = _value(part, given)
        if not _COMPARE[type(compare)](left, right):
            return False
        left = right
    return True
