"""Labels and values in two columns, with values folded under themselves. For the details beside a list."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

Rows = Iterable[tuple[str, str]]


def facts_table(rows: Rows) -> Table:
    """Rows as a table; nothing in them is markup."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    for label, value in rows:
        table.add_row(Text(label), Text(value))
    return table


def facts_text(rows: Rows) -> str:
    """Rows as text, to copy."""
    return "".join(f"{label:<13}{value}\n" for label, value in rows)
