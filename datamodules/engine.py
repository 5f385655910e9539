"""The relational engine behind Ibis: DuckDB here, Spark in :mod:`datamodules.spark`. Nobody else knows which one it is."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.options import PhotoOptions
from datamodules.photos import Done, Given, by_threads
from datamodules.words import word_count

MEMORY_LIMIT = "1GB"
LIST_OF_JSON = "list_of_json"
LONGEST_LINE = 16 * 1024 * 1024  # bytes; the reader's buffers are a multiple of it


class Engine:
    """DuckDB with its tables in memory up to a limit and beyond it in the work folder: reviews need not fit into memory."""

    def __init__(self, work: Path) -> None:
        self._work = work
        spill = work / "spill"
        spill.mkdir(parents=True, exist_ok=True)
        # No insertion order: rows are sorted where their order matters, and keeping it costs memory.
        self._con = ibis.duckdb.connect(
            memory_limit=MEMORY_LIMIT,
            temp_directory=str(spill),
            preserve_insertion_order=False,
        )
        self._con.raw_sql(f"CREATE MACRO {LIST_OF_JSON}(t) AS CAST(TRY_CAST(t AS JSON) AS VARCHAR[])")

    def read_json(self, path: Path, columns: dict[str, str]) -> ir.Table:
        """Read JSON lines with an explicit schema; a line that is no JSON object becomes a row of nulls."""
        return self._con.read_json(
            path, columns=columns, format="newline_delimited", ignore_errors=True, maximum_object_size=LONGEST_LINE
        )

    def read_parquet(self, path: Path) -> ir.Table:
        """Read a Parquet file."""
        return self._con.read_parquet(path)

    def words(self, texts: ir.StringValue) -> ir.IntegerValue:
        """Return the number of words of each text, as :func:`datamodules.words.count_words` counts them; null where it is."""
        return word_count(texts)

    def table(self, name: str, content: ir.Table | pa.Table) -> ir.Table:
        """Store an expression's result or an Arrow table under ``name``, and return it."""
        if isinstance(content, pa.Table):
            # By way of a file: registering Arrow tables fails between some releases of Ibis and its SQL writer.
            path = self._work / f"{name}.parquet"
            pq.write_table(content, path)
            return self.read_parquet(path)
        return self._con.create_table(name, content)

    def rows(self, expression: ir.Table) -> list[dict[str, Any]]:
        """Return a small result as plain rows."""
        rows: list[dict[str, Any]] = self._con.to_pyarrow(expression).to_pylist()
        return rows

    def stream(self, expression: ir.Table, rows: int = 10_000) -> Iterator[pa.RecordBatch]:
        """Yield a large, sorted result in batches of about so many rows; the engine can do nothing else meanwhile."""
        result = self._con.con.sql(self._con.compile(expression))
        # Not Ibis' own to_pyarrow_batches, which asks some releases of DuckDB for a method by its old name.
        read = getattr(result, "to_arrow_reader", None) or result.fetch_arrow_reader
        yield from read(rows)

    def photos(self, items: Iterable[Given], options: PhotoOptions) -> Iterator[Done]:
        """Yield what :func:`datamodules.photos.process` makes of each photo."""
        return by_threads(items, options)

    def close(self) -> None:
        """Close the tables and remove the files that hold a part of them."""
        self._con.disconnect()
