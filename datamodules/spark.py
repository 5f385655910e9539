"""Spark as the engine: the same expressions on one machine or a cluster (``docs/scale.md``).

Under ``spark-submit`` it is the cluster's; otherwise it runs on all cores of this machine. Executors run Python for photos
alone. Files are read by the executors, so on a cluster they must lie where all of its machines see them.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from pyspark import SparkConf, SparkContext, StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sql
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from datamodules.engine import LIST_OF_JSON, Engine
from datamodules.options import PhotoOptions
from datamodules.photos import Done, Given, by_threads, name_of, process, workers
from datamodules.words import QUARTERS

PHOTOS_OF_A_TASK = 200
PHOTOS_OF_A_JOB = 100_000
_READ_AS = {"VARCHAR[]": ArrayType(StringType())}
_CAST_TO = {"DOUBLE": "double", "BIGINT": "bigint"}


def _words_function() -> str:
    """Return ``count_words`` as :func:`datamodules.words.count_words` counts, in SQL: no text leaves the executors' Java."""
    one, two = (
        "[" + "".join(f"{chr(first)}-{chr(last)}" for first, last, quarters in QUARTERS if quarters == count) + "]"
        for count in (1, 2)
    )
    word = "[^ \n\t\r]+"
    of_script = f"greatest(1, int((regexp_count(w, '{one}') + 2 * regexp_count(w, '{two}')) / 4))"
    return (
        "CREATE OR REPLACE TEMPORARY FUNCTION count_words(t STRING) RETURNS INT RETURN "
        f"CASE WHEN t RLIKE '{one}|{two}' "
        f"THEN aggregate(regexp_extract_all(t, '{word}', 0), 0, (n, w) -> n + {of_script}) "
        f"ELSE regexp_count(t, '{word}') END"
    )


def _settings() -> SparkConf:
    """Return the settings of ``spark-submit``, and where there are none, those of one machine."""
    SparkContext._ensure_initialized()  # only then does SparkConf know what spark-submit was told
    conf = SparkConf()
    conf.set("spark.ui.showConsoleProgress", "false")  # what is done is said by our own lines
    if conf.get("spark.master", "local").startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        conf.setIfMissing("spark.sql.shuffle.partitions", str(4 * workers()))
        conf.setIfMissing("spark.ui.enabled", "false")  # a page that whoever reaches the machine could read
    return conf


@ibis.udf.scalar.builtin
def count_words(text: str) -> int:  # type: ignore[empty-body]
    """Return the number of words, by the function that :func:`_words_function` makes."""


class SparkEngine(Engine):
    """See :class:`datamodules.engine.Engine`. Tables are kept by the executors, in memory and beyond it on their disks."""

    def __init__(self, work: Path) -> None:
        self._mine = SparkSession.getActiveSession() is None
        self._session = SparkSession.builder.config(conf=_settings()).getOrCreate()
        self._session.sparkContext.setLogLevel("ERROR")
        self._con = ibis.pyspark.connect(self._session)
        self._session.sql(
            f"CREATE OR REPLACE TEMPORARY FUNCTION {LIST_OF_JSON}(t STRING) RETURNS ARRAY<STRING> "
            "RETURN from_json(t, 'array<string>')"
        )
        self._session.sql(_words_function())

    def read_json(self, path: Path, columns: dict[str, str]) -> ir.Table:
        """Read JSON lines as DuckDB does: what is no JSON object is a row of nulls, what is no number null."""
        schema = StructType([StructField(name, _READ_AS.get(kind, StringType())) for name, kind in columns.items()])
        line = sql.btrim("value", sql.lit(" \t\r\ufeff"))
        lines = self._session.read.text(str(path), lineSep="\n").select(line.alias("line")).filter("line <> ''")
        # Spark's own reader would take what stands before or after an object, several of them, and any bytes.
        line = sql.col("line")
        valid = sql.is_valid_utf8(line) & line.startswith("{") & line.endswith("}")
        listed = sql.from_json(sql.concat(sql.lit("["), line, sql.lit("]")), ArrayType(schema))
        rows = lines.select(sql.when(valid, listed).alias("list"))
        rows = rows.select(sql.when(sql.size("list") == 1, sql.col("list")[0]).alias("row"))
        return self._view(
            rows.select([
                (sql.col(f"row.{name}").try_cast(_CAST_TO[kind]) if kind in _CAST_TO else sql.col(f"row.{name}")).alias(name)
                for name, kind in columns.items()
            ])
        )  # fmt: skip

    def words(self, texts: ir.StringValue) -> ir.IntegerValue:
        """See :meth:`Engine.words`."""
        return count_words(texts).cast("int32")

    def table(self, name: str, content: ir.Table | pa.Table) -> ir.Table:
        """See :meth:`Engine.table`."""
        if isinstance(content, pa.Table):
            return self._view(self._session.createDataFrame(content), name)
        frame = self._frame(content)
        # Not cache: the plan of each table would hold those of all before it, and outgrow the driver's memory as a text.
        lasting = self._session.conf.get("spark.checkpoint.dir", None)
        return self._view(frame.checkpoint() if lasting else frame.localCheckpoint(), name)

    def rows(self, expression: ir.Table) -> list[dict[str, Any]]:
        """See :meth:`Engine.rows`."""
        rows: list[dict[str, Any]] = self._frame(expression).toArrow().to_pylist()
        return rows

    def stream(self, expression: ir.Table, rows: int = 10_000) -> Iterator[pa.RecordBatch]:
        """See :meth:`Engine.stream`; the size of the batches is Spark's own."""
        names = expression.columns
        frame = self._frame(expression).toDF(
            *(str(place) for place in range(len(names)))
        )  # mapInArrow splits names at dots
        for (packed,) in _one_partition_at_a_time(frame.mapInArrow(_packed, "batch binary")):
            for batch in pa.ipc.open_stream(packed):
                yield batch.rename_columns(list(names))

    def photos(self, items: Iterable[Given], options: PhotoOptions) -> Iterator[Done]:
        """See :meth:`Engine.photos`. Files are processed by the executors; what comes out of an archive, here."""
        for is_file, group in groupby(items, lambda item: not isinstance(item[1], bytes)):
            if not is_file:
                yield from by_threads(group, options)
                continue
            while some := list(islice(group, PHOTOS_OF_A_JOB)):
                tasks = self._session.sparkContext.parallelize(some, -(-len(some) // PHOTOS_OF_A_TASK))
                yield from _one_partition_at_a_time(
                    tasks.map(lambda item: (item[0], name_of(*item), process(item[1], options)))
                )

    def close(self) -> None:
        """Stop a Spark that was started here; another one forgets the tables that nobody holds any more."""
        if self._mine:
            self._session.stop()

    def _frame(self, expression: ir.Table) -> DataFrame:
        name = ibis.util.gen_name("expression")
        self._con.create_view(name, expression)
        return self._session.table(name)

    def _view(self, frame: DataFrame, name: str | None = None) -> ir.Table:
        name = name or ibis.util.gen_name("view")
        frame.createOrReplaceTempView(name)
        return self._con.table(name)


def _packed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield each batch as one value, in Arrow's own format."""
    for batch in batches:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        yield pa.record_batch({"batch": [sink.getvalue().to_pybytes()]})


def _one_partition_at_a_time(rows: Any) -> Iterator[Any]:
    """Yield the rows of a frame or RDD: computed by all executors at once, held by them, and fetched as they are needed."""
    rows.persist(StorageLevel.DISK_ONLY)
    rows.count()
    yield from rows.toLocalIterator(prefetchPartitions=True)
    rows.unpersist()
