"""Documents in JSON lines and tables: write them for the benchmarks, and read them as simple scripts do.

A document is whole paragraphs with together 3,000 characters or more, about the size of FineWeb's documents.
It has an id, a URL and a score next to its text. A row group of parquet and a record batch of Arrow have
1,000 documents.
"""

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

FORMS = ("jsonl", "parquet", "csv", "arrow")
_DOCUMENT_CHARS = 3_000
_ROWS = 1_000


def paragraphs(source: Path) -> Iterator[str]:
    """Yield the documents of a text file."""
    lines: list[str] = []
    n_chars = 0
    with source.open(encoding="utf-8", errors="ignore") as file:
        for line in file:
            lines.append(line)
            n_chars += len(line)
            if n_chars >= _DOCUMENT_CHARS and line == "\n":
                yield "".join(lines)
                lines, n_chars = [], 0
    if lines:
        yield "".join(lines)


def store(source: Path, form: str) -> Path:
    """Write the documents of a text file next to it, unless they are there and newer; return the path."""
    path = source.with_suffix(f".{form}")
    if path.exists() and path.stat().st_mtime > source.stat().st_mtime:
        return path
    partial = path.with_suffix(f".{form}.partial")
    rows = (
        {"id": f"<urn:uuid:{k}>", "text": text, "url": f"https://example.org/{k}", "score": k % 100 / 100}
        for k, text in enumerate(paragraphs(source))
    )
    if form in ("parquet", "arrow"):
        import pyarrow  # here: it is an extra
        from pyarrow.parquet import ParquetWriter

        groups = iter(lambda: list(itertools.islice(rows, _ROWS)), [])
        first = pyarrow.Table.from_pylist(next(groups))
        new_writer = ParquetWriter if form == "parquet" else pyarrow.ipc.new_stream
        with new_writer(str(partial), first.schema) as writer:
            writer.write_table(first)
            for group in groups:
                writer.write_table(pyarrow.Table.from_pylist(group))
    elif form == "csv":
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ("id", "text", "url", "score"))
            writer.writeheader()
            writer.writerows(rows)
    else:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    partial.replace(path)
    return path


def documents(source: Path) -> Iterator[str]:
    """Yield the documents of a text file, of JSON lines or of a table, with a simple loop."""
    if source.suffix == ".parquet":
        from pyarrow.parquet import ParquetFile

        for batch in ParquetFile(source).iter_batches(columns=["text"]):
            yield from batch.column("text").to_pylist()
    elif source.suffix == ".arrow":
        import pyarrow

        for batch in pyarrow.ipc.open_stream(source.open("rb")):
            yield from batch.column("text").to_pylist()
    elif source.suffix == ".csv":
        csv.field_size_limit(1 << 30)
        with source.open(encoding="utf-8", newline="") as file:
            yield from (row["text"] for row in csv.DictReader(file))
    elif source.suffix == ".jsonl":
        with source.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)["text"]
    else:
        yield from paragraphs(source)
