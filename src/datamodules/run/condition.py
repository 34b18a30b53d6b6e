"""Conditions on the rows of tables, by which samples are selected when they are read.

    status == 'ok' and num_frames >= 16
    0.5 <= left_hand_rate < 1 or not device in ['cpu', 'NVIDIA T4']

A condition is written as in Python. It has names of columns (`table.py`) and of the metrics of the samples' kind,
texts, numbers, comparisons, `in` with a list, `and`, `or`, `not`, and `is None` for what is not recorded. Nothing else
is accepted, and nothing is executed as Python. Comparisons with a value that is not recorded are neither true nor
false, as in SQL; samples for which the whole condition is neither are not selected.
"""

import ast
from collections.abc import Iterable
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.errors import ConfigError
from datamodules.run.table import TABLE_SCHEMA

_COMPARISONS: dict[type[ast.cmpop], Any] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_GRAMMAR = "A condition has names, texts, numbers, comparisons, `in [...]`, `is None`, `and`, `or` and `not`"


class Condition:
    """A checked condition on the rows of tables.

    Args:
        text: the condition, see above.
        metrics: names of the metrics of the samples' kind, which are names in conditions, too.

    Attributes:
        text: as given.
        columns: of `TABLE_SCHEMA` that the condition needs.

    Raises:
        ConfigError: it is no condition, names an unknown column or metric, or compares a text with a number.
    """

    def __init__(self, text: str, metrics: Iterable[str] = ()) -> None:
        self.text = text
        columns = [name for name in TABLE_SCHEMA.names if name != "metrics"]
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            problem = getattr(error, "msg", error)  # without "(<unknown>, line 1)"
            raise ConfigError(f"where={text!r:.200} is not a condition: {problem}. {_GRAMMAR}") from error
        names = dict.fromkeys(node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name))
        for name in names:
            if name not in (*columns, *metrics):
                raise ConfigError(
                    f"where={text!r:.200} names {name!r}, which is not recorded. The columns are {', '.join(columns)}; "
                    f"the metrics of these samples are {', '.join(metrics) or 'none'}"
                )
        self.columns = list(dict.fromkeys(name if name in columns else "metrics" for name in names))
        try:
            result = self.evaluate(TABLE_SCHEMA.empty_table())
        except (pa.ArrowException, OverflowError, RecursionError) as error:
            raise ConfigError(
                f"where={text!r:.200} cannot be computed: {error}. Compare texts with texts, numbers with numbers"
            ) from error
        if not pa.types.is_boolean(result.type) or not names:
            raise ConfigError(f"where={text!r:.200} is not a condition on a column. {_GRAMMAR}")

    def evaluate(self, rows: Any) -> Any:
        """Return whether each row meets the condition.

        Args:
            rows: a pyarrow Table with the `columns`.

        Returns:
            A boolean pyarrow ChunkedArray; null where a value that decides is not recorded.
        """
        return self._value(self._tree, rows)

    def _value(self, node: ast.expr, rows: Any) -> Any:
        """Return the value of a part of the condition, a ChunkedArray with a value for each row, or a Scalar."""
        match node:
            case ast.Name(id=name) if name in rows.column_names:
                return rows[name]
            case ast.Name(id=name):
                return pc.map_lookup(rows["metrics"], pa.scalar(name), "first")
            case ast.Constant(value=value) if type(value) in (str, int, float):
                return pa.scalar(value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return pa.scalar(-value)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return pc.invert(self._value(operand, rows))
            case ast.BoolOp(op=operation, values=values):
                combine = pc.and_kleene if isinstance(operation, ast.And) else pc.or_kleene
                return reduce(combine, (self._value(value, rows) for value in values))
            case ast.Compare(left=left, ops=operations, comparators=rights):
                lefts = [left, *rights]
                parts = map(self._compared, lefts, operations, rights, [rows] * len(rights))
                return reduce(pc.and_kleene, parts)  # 1 <= x < 5
        raise self._not_understood(node)

    def _compared(self, left: ast.expr, operation: ast.cmpop, right: ast.expr, rows: Any) -> Any:
        """Return the value of one comparison."""
        match operation, right:
            case ast.Is(), ast.Constant(value=None):
                return pc.is_null(self._value(left, rows))
            case ast.IsNot(), ast.Constant(value=None):
                return pc.is_valid(self._value(left, rows))
            case ast.In() | ast.NotIn(), ast.List(elts=[_, *_]) | ast.Tuple(elts=[_, *_]) | ast.Set():
                # not `pc.is_in`, which answers "no" for a value that is not recorded
                equal = (pc.equal(self._value(left, rows), self._value(value, rows)) for value in right.elts)
                is_one_of = reduce(pc.or_kleene, equal)
                return is_one_of if isinstance(operation, ast.In) else pc.invert(is_one_of)
        if type(operation) not in _COMPARISONS:
            raise self._not_understood(right)
        return _COMPARISONS[type(operation)](self._value(left, rows), self._value(right, rows))

    def _not_understood(self, node: ast.expr) -> ConfigError:
        return ConfigError(f"where={self.text!r:.200} has {ast.unparse(node)!r:.100} where it cannot be. {_GRAMMAR}")
