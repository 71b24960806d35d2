"""Inputs by hypothesis: requests with the fields that they have, of the right type or nearly so, and conversations."""

import json
from typing import Any

import msgspec
from hypothesis import strategies as st

from filefly.wire.codec import CommandTable

_names = st.sampled_from(["a", "a-0", "b-1.2", "hello.txt", "hello.txt-0", "docs/x", ".h", "../x", "é", "", "x" * 250])
_texts = _names | st.text(max_size=12) | st.sampled_from(["00000000", "10.0.0.9:1", ":9", "YQ==", "[::1]:9", "eyJ.e.x"])
_numbers = st.integers(0, 20) | st.sampled_from([-1, 2**53 - 1, 2**53, 2**64, 10**30])
_anything: Any = st.recursive(
    st.none() | st.booleans() | _numbers | st.floats() | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)


def _value(kind: Any) -> Any:
    """Return values for a field: mostly such as it may have."""
    right: Any
    match kind:
        case msgspec.inspect.UnionType():
            right = st.one_of([_value(each) for each in kind.types])
        case msgspec.inspect.IntType():
            right = _numbers
        case msgspec.inspect.StrType():
            right = _texts
        case msgspec.inspect.BoolType():
            right = st.booleans()
        case msgspec.inspect.NoneType():
            right = st.none()
        case msgspec.inspect.VarTupleType() | msgspec.inspect.ListType() | msgspec.inspect.CollectionType():
            right = st.lists(_value(kind.item_type), max_size=3)
        case msgspec.inspect.StructType():
            right = _fields(kind)
        case _:
            right = _anything
    return right if isinstance(kind, msgspec.inspect.UnionType) else st.one_of(right, right, right, _anything)


def _fields(kind: msgspec.inspect.StructType) -> Any:
    required = {field.encode_name: _value(field.type) for field in kind.fields if field.required}
    optional = {field.encode_name: _value(field.type) for field in kind.fields if not field.required}
    return st.fixed_dictionaries(required, optional=optional)


def requests(commands: CommandTable) -> st.SearchStrategy[bytes]:
    """Return lines that ask for one of `commands`, without their ends."""
    asked = []
    for command, kind in commands.items():
        described: Any = msgspec.inspect.type_info(kind)
        asked.append(_fields(described).map(lambda fields, command=command: {"command": command, **fields}))
    return st.one_of(asked).map(lambda fields: json.dumps(fields, ensure_ascii=False).encode(errors="surrogatepass"))


def conversations(commands: CommandTable) -> st.SearchStrategy[bytes]:
    """Return what `tests.fuzz.live` takes: how it is cut, and lines with bytes between them."""
    ends = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\nx\n", b"\n" + bytes(20), b""])
    said = st.lists(st.tuples(requests(commands), ends).map(b"".join), min_size=1, max_size=6).map(b"".join)
    return st.tuples(st.sampled_from([b"\0", b"\1", b"\7"]), said).map(b"".join)
