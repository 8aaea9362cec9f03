"""The jobs that tests run: named for what they do to a row. Loaded by file, as a user's would be."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from domyn_swarm import SwarmJob


class Upper(SwarmJob):
    """One text in, one text out; in native mode, too."""

    input_columns = ("text",)
    output_columns = ("upper",)

    async def transform_item(self, text: str) -> str:
        return text.upper()

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> pa.Table:
        table = pa.table(batch)
        texts = table.column(input_cols[0]).to_pylist()
        return pa.table({id_col: table.column(id_col), "upper": [text.upper() for text in texts]})


class Length(SwarmJob):
    """Plain `def`, with a parameter."""

    input_columns = ("text",)
    output_columns = ("length",)
    plus: int = 0

    def transform_item(self, text: str) -> int:
        return len(text) + self.plus


class Pair(SwarmJob):
    """A tuple over two output columns."""

    input_columns = ("text",)
    output_columns = ("first", "length")

    async def transform_item(self, text: str) -> tuple[str, int]:
        return text[:1], len(text)

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[Any]:
        return [(text[:1], len(text)) for text in pa.table(batch).column(input_cols[0]).to_pylist()]


class Facts(SwarmJob):
    """A dict whose keys become columns."""

    input_columns = ("text",)

    async def transform_item(self, text: str) -> dict[str, Any]:
        return {"words": text.split(), "length": len(text)}

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[Any]:
        texts = pa.table(batch).column(input_cols[0]).to_pylist()
        return [{"words": text.split(), "length": len(text)} for text in texts]


class Letters(SwarmJob):
    """Columns whose types the job declares: how often each letter occurs, and the text as a number where it is one."""

    input_columns = ("text",)
    output_columns = ("letters", "number")

    def output_types(self, spec: Any) -> dict[str, pa.DataType]:
        return {"letters": pa.map_(pa.string(), pa.int64()), "number": pa.float64()}

    async def transform_item(self, text: str) -> Any:
        return [(letter, text.count(letter)) for letter in sorted(set(text))], int(text) if text.isdigit() else None

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[Any]:
        texts = pa.table(batch).column(input_cols[0]).to_pylist()
        counts = [[(letter, text.count(letter)) for letter in sorted(set(text))] for text in texts]
        return [(count, int(text) if text.isdigit() else None) for count, text in zip(counts, texts, strict=True)]


class Named(SwarmJob):
    """A dict with one key: the job's field."""

    input_columns = ("text",)
    key: str

    async def transform_item(self, text: str) -> dict[str, Any]:
        return {self.key: text.upper()}

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[Any]:
        return [{self.key: text.upper()} for text in pa.table(batch).column(input_cols[0]).to_pylist()]


class Joined(SwarmJob):
    """Several input columns: the item is a dict."""

    input_columns = ("text", "number")
    output_columns = ("joined",)

    async def transform_item(self, item: dict[str, Any]) -> str:
        return f"{item['text']}-{item['number']}"

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[str]:
        return [f"{row['text']}-{row['number']}" for row in pa.table(batch).select(input_cols).to_pylist()]


class Same(SwarmJob):
    """All input columns as they are, whatever their types."""

    async def transform_item(self, item: dict[str, Any]) -> dict[str, Any]:
        return {f"same_{name}": value for name, value in item.items()}

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[Any]:
        items = pa.table(batch).select(input_cols).to_pylist()
        return [{f"same_{name}": value for name, value in item.items()} for item in items]


class Frames(SwarmJob):
    """A polars frame on any engine, with types that polars alone has; of objects where the first text is `object`."""

    input_columns = ("text",)

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> Any:
        import polars as pl

        texts = pa.table(batch).column(input_cols[0]).to_pylist()
        if texts[0] == "object":
            return pl.DataFrame({"made": pl.Series([object() for _ in texts], dtype=pl.Object)})
        kinds = pl.Enum(sorted(set(texts)))
        columns = {"category": pl.Series(texts, dtype=pl.Categorical), "enum": pl.Series(texts, dtype=kinds)}
        return pl.DataFrame(columns)


class Union(SwarmJob):
    """A column that parquet has no type for."""

    input_columns = ("text",)

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> pa.Table:
        rows = pa.table(batch).num_rows
        kinds, numbers = pa.array([0] * rows, pa.int8()), pa.array(range(rows))
        return pa.table({"made": pa.UnionArray.from_sparse(kinds, [numbers])})


class Odd(SwarmJob):
    """Values that no column holds: one whose `repr` raises, and one of 600 levels."""

    input_columns = ("text",)

    async def transform_item(self, text: str) -> dict[str, Any]:
        return {"made": _odd(text)}

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[Any]:
        return [{"made": _odd(text)} for text in pa.table(batch).column(input_cols[0]).to_pylist()]


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def _odd(text: str) -> Any:
    value: Any = 1
    for _ in range(600 if text == "deep" else 0):
        value = [value]
    return Mute() if text == "mute" else value


class Rows(SwarmJob):
    """How many columns a row has."""

    output_columns = ("made",)

    async def transform_item(self, item: Any) -> int:
        return len(item) if isinstance(item, dict) else 1

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[int]:
        return [len(input_cols)] * len(batch)


class Reverse(SwarmJob):
    """A list of rows at a time."""

    input_columns = ("text",)
    output_columns = ("reversed",)

    async def transform_items(self, texts: list[str]) -> list[str]:
        return [text[::-1] for text in texts]

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[str]:
        return [text[::-1] for text in pa.table(batch).column(input_cols[0]).to_pylist()]


class Picky(SwarmJob):
    """Fails on rows whose text holds `bad`, unless the file `mended` exists; writes down each call in `calls`."""

    input_columns = ("text",)
    output_columns = ("upper",)
    bad: str = "bad"
    mended: str = "mended"
    calls: str = "calls"

    async def transform_item(self, text: str) -> str:
        _write_down(self.calls, text)
        if self.bad in text and not Path(self.mended).exists():
            raise ValueError(f"cannot do {text!r}")
        return text.upper()

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[Any]:
        outputs: list[Any] = []
        for text in pa.table(batch).column(input_cols[0]).to_pylist():
            _write_down(self.calls, text)
            fails = self.bad in text and not Path(self.mended).exists()
            outputs.append(ValueError(f"cannot do {text!r}") if fails else text.upper())
        return outputs


class Numeric(SwarmJob):
    """A number where the text is one, else the text: a column cannot be both."""

    async def transform_item(self, value: str) -> int | str:
        return int(value) if value.isdigit() else value

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[Any]:
        values = pa.table(batch).column(input_cols[0]).to_pylist()
        return [int(value) if value.isdigit() else value for value in values]


class Recorded(SwarmJob):
    """Upper case, a little slow, with each call written down before it is made."""

    input_columns = ("text",)
    output_columns = ("upper",)
    calls: str = "calls"
    seconds: float = 0.0

    def transform_item(self, text: str) -> str:
        _write_down(self.calls, text)
        time.sleep(self.seconds)
        return text.upper()


class Paced(Recorded):
    """As slow as that until there is a file `fast`: a test decides when the run ends."""

    fast: str = "fast"

    def transform_item(self, text: str) -> str:
        _write_down(self.calls, text)
        if not Path(self.fast).exists():
            time.sleep(self.seconds)
        return text.upper()


class Process(SwarmJob):
    """Which process it was made in."""

    input_columns = ("text",)
    output_columns = ("process",)

    def transform_item(self, text: str) -> int:
        return os.getpid()


def _write_down(path: str, line: str) -> None:
    """One append of one line is one step, whichever thread or process makes it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)
