"""Small safe expressions over dotted names: `mixture.k == 2 and method.temperature < 0.1`.

They say when a parameter is searched, which combinations are allowed (`condition:` and `constraints:` of a search space) and
which rows a leaderboard shows (`--where`). Nothing is called, indexed or imported: there are names, numbers, text,
lists, arithmetic and comparisons.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

LONGEST = 1000  # characters; keeps Python's parser far from its recursion limit


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}

_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

_OTHER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}

_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}

ALLOWED = "names, numbers, text, lists, + - * / // %, comparisons, and, or, not, in"


class SettingExpression:
    """A parsed expression; call it with the values of its `names`.

    As in SQL, arithmetic with a missing value (None) gives None and an ordering with one is false. Raises ValueError
    on text that is not such an expression, and when called with values that do not fit it (text < number, 1 / 0).
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f'{text!r}: an expression must be text such as "mixture.k == 2"')
        if len(text) > LONGEST:
            raise ValueError(f"{text[:40]}...: longer than {LONGEST} characters")
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, RecursionError, MemoryError, ValueError):
            raise ValueError(
                f'"{text}": not an expression such as "mixture.k == 2 and training.batch_size < 100"'
            ) from None
        found: set[str] = set()
        _admit(self._tree, text, found)
        self.names = frozenset(found)

    def __call__(self, values: Mapping[str, Any]) -> Any:
        try:
            return _evaluate(self._tree, values)
        except KeyError as error:
            raise ValueError(f'"{self.text}": no value for {error.args[0]}') from None
        except (TypeError, ArithmeticError) as error:
            raise ValueError(f'"{self.text}": {error}') from None

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


def _dotted(node: ast.expr) -> str | None:
    """`a.b.c` of a chain of attributes, None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        stem = _dotted(node.value)
        return None if stem is None else f"{stem}.{node.attr}"
    return None


def _admit(node: ast.expr, text: str, names: set[str]) -> None:
    """Collects the names below `node`; ValueError at the first thing that is not on the short list."""
    name = _dotted(node)
    children: list[ast.expr] = []
    if name is not None:
        names.add(name)
    elif isinstance(node, ast.BoolOp):
        children = node.values
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        children = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        children = [node.operand]
    elif isinstance(node, ast.Compare) and all(type(op) in _ORDER or type(op) in _OTHER for op in node.ops):
        children = [node.left, *node.comparators]
    elif isinstance(node, ast.List | ast.Tuple):
        children = node.elts
    elif not (isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None)):
        part = ast.get_source_segment(text.strip(), node) or text
        raise ValueError(f'"{text}": {part} is not allowed; only {ALLOWED}')
    for child in children:
        _admit(child, text, names)


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.BoolOp):
        decide = all if isinstance(node.op, ast.And) else any  # short-circuits, and answers with a bool
        return decide(bool(_evaluate(part, values)) for part in node.values)
    if isinstance(node, ast.UnaryOp):
        operand = _evaluate(node.operand, values)
        return None if operand is None and not isinstance(node.op, ast.Not) else _UNARY[type(node.op)](operand)
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, values), _evaluate(node.right, values)
        if left is None or right is None:
            return None
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise TypeError(f"arithmetic needs numbers, not {left!r} and {right!r}")
        return _ARITHMETIC[type(node.op)](left, right)
    if isinstance(node, ast.Compare):
        return _compare(node, values)
    if isinstance(node, ast.List | ast.Tuple):
        return [_evaluate(part, values) for part in node.elts]
    return values[_dotted(node) or ""]


def _compare(node: ast.Compare, values: Mapping[str, Any]) -> bool:
    """A chain such as `1 < mixture.k <= 4`."""
    left = _evaluate(node.left, values)
    for op, comparator in zip(node.ops, node.comparators, strict=True):
        right = _evaluate(comparator, values)
        if type(op) in _ORDER:
            if left is None or right is None or not _ORDER[type(op)](left, right):
                return False
        elif not _OTHER[type(op)](left, right):
            return False
        left = right
    return True
