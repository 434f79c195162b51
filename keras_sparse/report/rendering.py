"""Renders tables as text, Markdown, HTML, and objects of the package rich."""

import dataclasses
import html as html_
import json
import sys

MASKED_COLUMNS = ("layer", "weight", "weights", "live", "density", "MACs", "of dense", "bytes", "dead in", "dead out")
DENSE_COLUMNS = ("not masked", "weight", "weights", "MACs", "why")
LEFT_ALIGNED = ("layer", "weight", "not masked", "why")  # columns of words; numbers are aligned to the right


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of strings.

    Attributes:
        head: tuple of str, titles of the columns.
        rows: list of tuples of str.
        caption: str, text below the table.
    """

    head: tuple
    rows: list
    caption: str = ""


def report_tables(report) -> list[Table]:
    """Returns the tables of a `Report`: masked weights and, if there are any, dense weights."""
    rows = [
        (
            x.name,
            _shape(x.shape),
            f"{x.weights:,}",
            f"{x.live:,}",
            f"{x.density:.4f}",
            _number(x.macs),
            _number(x.dense_macs),
            f"{x.bytes:,}",
            f"{x.dead_inputs:,}",
            f"{x.dead_outputs:,}",
        )
        for x in report.layers
    ]
    matrices = [x for x in report.dense if len(x.shape) > 1]
    vectors = [x for x in report.dense if len(x.shape) < 2]
    others = [(x.name, _shape(x.shape), f"{x.weights:,}", _number(x.macs), x.reason) for x in matrices]
    count, total = f"{len(vectors)} biases, scales and other vectors", f"{sum(x.weights for x in vectors):,}"
    if not others:  # Most models have vectors, which need no table of their own.
        return [Table(MASKED_COLUMNS, rows, summary(report) + (f"; not masked: {total} in {count}" if vectors else ""))]
    if vectors:
        others.append((count, "", total, "0", "has one axis"))
    return [Table(MASKED_COLUMNS, rows, summary(report)), Table(DENSE_COLUMNS, others)]


def summary(report) -> str:
    """Returns the totals of a report as one sentence."""
    return (
        f"{report.name}: {report.live_weights:,} of {report.sparse_weights:,} weights live, sparsity "
        f"{report.sparsity:.4f}; {report.parameters:,} parameters with the dense ones, sparsity of the network "
        f"{report.network_sparsity:.4f}; {_number(report.macs)} MACs, {_number(report.dense_macs)} dense; "
        f"{report.bytes / 1024:,.1f} KiB stored sparse, {report.dense_bytes / 1024:,.1f} KiB dense"
    )


def text(tables: list[Table]) -> str:
    """Returns tables as plain text."""
    parts = []
    for table in tables:
        widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if title in LEFT_ALIGNED else cell.rjust(width)
                for title, cell, width in zip(table.head, row, widths, strict=True)
            ).rstrip()
            for row in (table.head, *table.rows)
        ]
        parts.append("\n".join([*lines, table.caption] if table.caption else lines))
    return "\n\n".join(parts)


def markdown(tables: list[Table]) -> str:
    """Returns tables as Markdown."""
    parts = []
    for table in tables:
        rule = ["---" if title in LEFT_ALIGNED else "--:" for title in table.head]
        lines = ["| " + " | ".join(row) + " |" for row in (table.head, rule, *table.rows)]
        parts.append("\n".join([*lines, "", table.caption] if table.caption else lines))
    return "\n\n".join(parts)


def html(tables: list[Table]) -> str:
    """Returns tables as HTML."""
    parts = []
    for table in tables:
        sides = ["left" if title in LEFT_ALIGNED else "right" for title in table.head]
        caption = f"<caption style='caption-side:bottom;text-align:left'>{html_.escape(table.caption)}</caption>"
        lines = ["<table>", caption if table.caption else "", "<thead>", _html_row("th", table.head, sides), "</thead>"]
        lines += ["<tbody>", *(_html_row("td", row, sides) for row in table.rows), "</tbody>", "</table>"]
        parts.append("\n".join(line for line in lines if line))
    return "\n".join(parts)


def _html_row(tag, row, sides):
    cells = zip(row, sides, strict=True)
    return "<tr>" + "".join(f"<{tag} style='text-align:{s}'>{html_.escape(c)}</{tag}>" for c, s in cells) + "</tr>"


def rich_tables(tables: list[Table]):
    """Returns tables as an object for `rich.print`."""
    import rich.console
    import rich.table

    parts = []
    for table in tables:
        rich_table = rich.table.Table(caption=table.caption or None, caption_justify="left", header_style="bold")
        for title in table.head:
            rich_table.add_column(title, justify="left" if title in LEFT_ALIGNED else "right", overflow="fold")
        for row in table.rows:
            rich_table.add_row(*row)
        parts.append(rich_table)
    return rich.console.Group(*parts)


class Rendered:
    """Base class of objects that are shown as tables. Subclasses define `to_dict` and `tables`."""

    def to_dict(self) -> dict:
        """Returns the object as a dict of plain data."""
        raise NotImplementedError

    def tables(self) -> list[Table]:
        """Returns the tables to show."""
        raise NotImplementedError

    def to_json(self) -> str:
        """Returns `to_dict()` as JSON."""
        return json.dumps(self.to_dict(), indent=1)

    def to_markdown(self) -> str:
        """Returns Markdown tables."""
        return markdown(self.tables())

    def to_html(self) -> str:
        """Returns HTML tables."""
        return html(self.tables())

    def show(self) -> None:
        """Prints the tables: formatted by rich if the output is a terminal, else as plain text."""
        if not sys.stdout.isatty():
            print(self)
            return
        import rich  # a dependency of Keras

        rich.print(self)

    _repr_html_ = to_html

    def __str__(self):
        return text(self.tables())

    def __rich__(self):
        return rich_tables(self.tables())


def _shape(shape):
    return "x".join(map(str, shape))


def _number(number):
    return "?" if number is None else f"{number:,}"
