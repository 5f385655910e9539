"""Which engine runs the queries."""

from pathlib import Path

from datamodules.engine import Engine


def open_engine(name: str, work: Path) -> Engine:
    """Return the engine of a name of :data:`datamodules.options.ENGINES`.

    Args:
        name: of the engine.
        work: a folder for temporary files.
    """
    if name == "spark":
        from datamodules.spark import SparkEngine

        return SparkEngine(work)
    return Engine(work)
