"""Arrow types, once for all engines: what they become while a run works with them, and what they were.

Parquet files declare more types than any engine handles. While rows are read, joined and converted, columns have their
*working* types: plain strings, bytes and lists instead of views, dictionaries with 32-bit indices. What is written gets
the *declared* types back.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

arrow_types: Any = pa
"""pyarrow for types that are put together at run time: its stubs want literal ones."""
LIST_VIEWS = (pa.ListViewType, pa.LargeListViewType)
LARGE_LISTS = (pa.LargeListType, pa.LargeListViewType)
LISTS = (pa.ListType, pa.FixedSizeListType, pa.ListViewType, *LARGE_LISTS)


def working(dtype: pa.DataType) -> pa.DataType:
    """What columns of `dtype` are while a run works with them: a type that kernels of Arrow take, of equal values."""
    return rebuilt(dtype, _plain)


def comparable(dtype: pa.DataType) -> pa.DataType:
    """The working type without dictionaries, for values that are compared with those of other tables."""
    return rebuilt(working(dtype), lambda one: one.value_type if isinstance(one, pa.DictionaryType) else one)


def working_schema(schema: pa.Schema) -> pa.Schema:
    """`schema` with working types; its fields keep their metadata."""
    return pa.schema([field.with_type(working(field.type)) for field in schema])


def rebuilt(dtype: Any, change: Callable[[Any], pa.DataType]) -> pa.DataType:
    """`dtype` with `change` applied to it and to all types inside, the innermost first. Extensions are not entered."""
    if isinstance(dtype, pa.StructType):
        dtype = pa.struct([_rebuilt_field(field, change) for field in dtype])
    elif isinstance(dtype, pa.MapType):
        key, item = _rebuilt_field(dtype.key_field, change), _rebuilt_field(dtype.item_field, change)
        dtype = arrow_types.map_(key, item, keys_sorted=dtype.keys_sorted)
    elif isinstance(dtype, LISTS):
        dtype = list_like(dtype, _rebuilt_field(dtype.value_field, change))
    elif isinstance(dtype, pa.DictionaryType):
        dtype = arrow_types.dictionary(dtype.index_type, rebuilt(dtype.value_type, change), dtype.ordered)
    return change(dtype)


def _rebuilt_field(field: pa.Field[Any], change: Callable[[Any], pa.DataType]) -> pa.Field[Any]:
    return field.with_type(rebuilt(field.type, change))


def parts(dtype: pa.DataType) -> list[Any]:
    """`dtype` and all types inside."""
    found: list[Any] = []

    def look(one: Any) -> pa.DataType:
        found.append(one)
        return one  # type: ignore[no-any-return]

    rebuilt(dtype, look)
    return found


def list_like(dtype: Any, values: pa.Field[Any]) -> pa.DataType:
    """A list type of the kind of `dtype`, with other `values`."""
    if isinstance(dtype, pa.FixedSizeListType):
        return pa.list_(values, dtype.list_size)
    makers: dict[type, Callable[[Any], pa.DataType]] = {
        pa.ListType: pa.list_,
        pa.LargeListType: pa.large_list,
        pa.ListViewType: pa.list_view,
        pa.LargeListViewType: pa.large_list_view,
    }
    return makers[type(dtype)](values)


def _plain(dtype: Any) -> pa.DataType:
    if isinstance(dtype, pa.DictionaryType):
        index = pa.int32() if dtype.index_type.bit_width < 32 else dtype.index_type
        plain = arrow_types.dictionary(index, dtype.value_type, dtype.ordered)
    elif isinstance(dtype, pa.FixedSizeListType):
        plain = dtype if dtype.list_size else pa.list_(dtype.value_field)  # parquet does not give empty ones back
    elif isinstance(dtype, LIST_VIEWS):
        plain = (pa.large_list if isinstance(dtype, LARGE_LISTS) else pa.list_)(dtype.value_field)
    elif isinstance(dtype, pa.RunEndEncodedType):
        plain = working(dtype.value_type)
    elif isinstance(dtype, pa.JsonType):
        plain = pa.json_(working(dtype.storage_type))
    else:
        plain = pa.string() if dtype == pa.string_view() else pa.binary() if dtype == pa.binary_view() else dtype
    return plain  # type: ignore[no-any-return]


def without_views(table: pa.Table) -> pa.Table:
    """`table` with plain strings, bytes and lists; its dictionaries keep their indices."""
    kinds = (
        rebuilt(dtype, lambda one: one if isinstance(one, pa.DictionaryType) else _plain(one))
        for dtype in table.schema.types
    )
    return with_types(table, kinds)


def with_types(table: pa.Table, kinds: Iterable[pa.DataType]) -> pa.Table:
    """`table` with its columns in other types, which hold the values."""
    fields = [field.with_type(kind) for field, kind in zip(table.schema, kinds, strict=True)]
    made: pa.Table = conformed(table, pa.schema(fields))
    return made


def empty_table(schema: pa.Schema) -> pa.Table:
    """No rows. `Schema.empty_table` knows no extension types inside of others."""
    return pa.Table.from_batches([], schema=schema)


def converted(array: Any, dtype: pa.DataType) -> Any:
    """`array` with its values in another type that holds them. Text is not looked at, valid or not.

    Raises:
        pa.ArrowException: a value has no counterpart in that type.
    """
    if array.type == dtype:
        return array
    if isinstance(array, pa.ChunkedArray):
        return arrow_types.chunked_array([converted(chunk, dtype) for chunk in array.chunks], dtype)
    if isinstance(array.type, pa.RunEndEncodedType):
        return converted(pc.call_function("run_end_decode", [array]), dtype)
    if isinstance(dtype, pa.BaseExtensionType):
        storage = array.storage if isinstance(array, pa.ExtensionArray) else array
        return pa.ExtensionArray.from_storage(dtype, converted(storage, dtype.storage_type))
    return _reassembled(array, dtype) if _lacks_casts(array.type) or _lacks_casts(dtype) else _cast(array, dtype)


def _cast(array: Any, dtype: Any) -> Any:
    """`array.cast(dtype)`, but dictionaries keep the order of their values, and bytes become text as they are."""
    if isinstance(array.type, pa.DictionaryType):
        index, kind, ordered = array.type.index_type, array.type.value_type, False
        if isinstance(dtype, pa.DictionaryType):
            index, kind, ordered = dtype.index_type, dtype.value_type, dtype.ordered
        indices, values = array.indices.cast(index), converted(array.dictionary, working(kind))
        array = pa.DictionaryArray.from_arrays(indices, values, ordered=ordered)
        return array if array.type == dtype else _cast(array.dictionary_decode(), dtype)
    if pa.types.is_binary(array.type) and pa.types.is_string(dtype):
        return array.view(dtype)
    return array.cast(dtype)


def conformed(batch: Any, schema: pa.Schema) -> Any:
    """A table or record batch with the columns of `schema` in its types; columns that it lacks are null.

    Raises:
        pa.ArrowException: a value has no counterpart in its column's type.
    """
    if batch.schema.equals(schema, check_metadata=True):
        return batch
    names = set(batch.schema.names)
    arrays = [
        converted(batch.column(field.name), field.type) if field.name in names else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    return type(batch).from_arrays(arrays, schema=schema)


def _lacks_casts(dtype: pa.DataType) -> bool:
    """Whether Arrow does not cast such columns: those of list views, and of dictionaries of views."""
    return any(
        isinstance(one, LIST_VIEWS)
        or (isinstance(one, pa.DictionaryType) and one.value_type != working(one.value_type))
        for one in parts(dtype)
    )


def _reassembled(array: Any, dtype: Any) -> Any:
    """`converted` part by part: besides, what Arrow's cast makes of list views is not valid."""
    missing = array.is_null()
    if isinstance(dtype, pa.StructType) and isinstance(array.type, pa.StructType):
        have = dict(zip((field.name for field in array.type), array.flatten(), strict=True))
        children = [
            converted(have[field.name], field.type) if field.name in have else pa.nulls(len(array), field.type)
            for field in dtype
        ]
        return pa.StructArray.from_arrays(children, fields=list(dtype), mask=missing)
    if isinstance(dtype, pa.MapType) and isinstance(array.type, pa.MapType):
        array = array.cast(pa.list_(pa.struct([array.type.key_field, array.type.item_field])))
        keys, items = array.flatten().flatten()
        keys, items = converted(keys, dtype.key_type), converted(items, dtype.item_type)
        return arrow_types.MapArray.from_arrays(_offsets(array, pa.int32()), keys, items, type=dtype, mask=missing)
    if isinstance(dtype, LISTS) and isinstance(array.type, LISTS):
        return _list_of(array, dtype)
    return _cast(array, dtype)


def _list_of(array: Any, dtype: Any) -> Any:
    """The lists of `array` as those of another kind, with their values converted."""
    missing, values = array.is_null(), converted(array.flatten(), dtype.value_type)
    if isinstance(dtype, pa.FixedSizeListType):
        return pa.ListArray.from_arrays(_offsets(array, pa.int32()), values, mask=missing).cast(dtype)
    wide = isinstance(dtype, LARGE_LISTS)
    offsets = _offsets(array, pa.int64() if wide else pa.int32())
    if isinstance(dtype, LIST_VIEWS):
        maker = arrow_types.LargeListViewArray if wide else arrow_types.ListViewArray
        sizes = pc.subtract(offsets[1:], offsets[:-1])
        return maker.from_arrays(offsets[:-1], sizes, values, type=dtype, mask=missing)
    maker = arrow_types.LargeListArray if wide else arrow_types.ListArray
    return maker.from_arrays(offsets, values, type=dtype, mask=missing)


def _offsets(array: Any, kind: pa.DataType) -> Any:
    """Where the values of each list begin among all of them, those of null lists left out, and where they end."""
    lengths = pc.list_value_length(array).fill_null(0).cast(kind)
    return pa.concat_arrays([pa.array([0], kind), pc.cumulative_sum(lengths)])


@lru_cache(256)
def is_stored(dtype: pa.DataType) -> bool:
    """Whether parquet takes columns of `dtype` and gives them back: it has no unions, and a limit to nesting."""
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(empty_table(pa.schema([("x", dtype)])), sink)
        pq.read_table(pa.BufferReader(sink.getvalue()))
    except (pa.ArrowException, OSError, NotImplementedError):
        return False
    return True
