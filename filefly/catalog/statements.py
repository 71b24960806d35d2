"""Statements that are run for every request: compiled once for each kind of database, run on its driver directly.

SQLAlchemy says it once, in the words of whatever database the catalog is kept in; what it would do again for each
execution costs several times what SQLite itself takes. What comes back is as the driver has it: plain tuples, and
0 and 1 for booleans where the database has none. Knows nothing of the catalog.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, Dialect
from sqlalchemy.sql.elements import ClauseElement

Values = Mapping[str, Any]

_NO_VALUES: Values = {}


@frozen
class _Compiled:
    text: str
    order: Sequence[str] | None
    constants: Values

    def parameters(self, values: Values) -> Any:
        """Return `values`, and those that the statement brings itself, as the driver takes them."""
        if self.constants:
            values = {**self.constants, **values}
        return values if self.order is None else [values[name] for name in self.order]


def cursor_of(connection: Connection) -> Any:
    """Return a cursor of the driver's own connection."""
    driver: Any = connection.connection.dbapi_connection
    return driver.cursor()


class Statement:
    """A statement of SQLAlchemy's Core; `columns` are those that an INSERT is given values for."""

    def __init__(self, clause: ClauseElement, *columns: str) -> None:
        self._clause = clause
        self._columns = columns
        self._compiled: dict[str, _Compiled] = {}

    def rows(self, connection: Connection, values: Values = _NO_VALUES) -> list[Any]:
        """Run it and return all that it finds."""
        rows: list[Any] = self._run(connection, values).fetchall()
        return rows

    def row(self, connection: Connection, values: Values = _NO_VALUES) -> Any:
        """Run it and return the first that it finds, None if there is none."""
        rows = self._run(connection, values).fetchall()
        return rows[0] if rows else None

    def value(self, connection: Connection, values: Values = _NO_VALUES) -> Any:
        """Run it and return the first value of the first row, None if there is none."""
        row = self.row(connection, values)
        return None if row is None else row[0]

    def run(self, connection: Connection, values: Values = _NO_VALUES) -> int:
        """Run it and return how many rows it changed."""
        changed: int = self._run(connection, values).rowcount
        return changed

    def run_each(self, connection: Connection, each: Sequence[Values]) -> None:
        """Run it with each of the values; with none, do nothing."""
        if len(each) == 1:
            self._run(connection, each[0])
        elif each:
            compiled = self._for(connection)
            cursor_of(connection).executemany(compiled.text, [compiled.parameters(one) for one in each])

    def _run(self, connection: Connection, values: Values) -> Any:
        compiled = self._for(connection)
        cursor = cursor_of(connection)
        cursor.execute(compiled.text, compiled.parameters(values))
        return cursor

    def _for(self, connection: Connection) -> _Compiled:
        dialect = connection.dialect
        return self._compiled.get(dialect.name) or self._compile(dialect)

    def _compile(self, dialect: Dialect) -> _Compiled:
        made: Any = self._clause.compile(dialect=dialect, column_keys=[*self._columns] or None)
        constants = {name: bound.value for name, bound in made.binds.items() if not bound.required}
        order = made.positiontup if made.positional else None
        self._compiled[dialect.name] = compiled = _Compiled(made.string, order, constants)
        return compiled
