"""All that is fuzzed: functions of bytes that raise if anything is not as it should be, and what to begin with.

| front end | how it finds inputs |
| --- | --- |
| `test_inputs.py` | by chance, from the examples, and by hypothesis, from what messages are made of (`make test`) |
| `guided.py` | atheris: an input that reaches new code becomes an example (`make soak`) |
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec
from attrs import frozen

from filefly.data.server import DataServer
from filefly.meta.server import MetadataServer
from filefly.wire import administration, batches, blocks, messages, security
from tests.fuzz import parsers, signed
from tests.fuzz.examples import VALUES, replies, requests_to, sent_to, with_first_byte, words_of
from tests.fuzz.live import (
    Life,
    LiveServer,
    open_closed_data_server,
    open_closed_metadata_server,
    open_data_server,
    open_metadata_server,
)
from tests.rights.signers import FITTING, token
from tests.rights.tickets import EXHIBITS, PRESENT, TO_STORE

Run = Callable[[bytes], None]


@frozen
class Target:
    """Something to fuzz: how it is opened with a folder for itself, its examples and words, and how often it is run."""

    opened: Callable[[Path], AbstractContextManager[Run]]
    examples: Sequence[bytes]
    words: Sequence[bytes]
    in_test: int
    """How many inputs `make test` finds by chance."""
    in_soak: int
    """How many `make soak` has."""
    longest: int = 8192
    """How many bytes of an input there are at most, where coverage leads."""


def _function(run: Run) -> Callable[[Path], AbstractContextManager[Run]]:
    @contextmanager
    def opened(_folder: Path) -> Iterator[Run]:
        yield run

    return opened


def _server(boot: Callable[[Path], Life]) -> Callable[[Path], AbstractContextManager[Run]]:
    @contextmanager
    def opened(folder: Path) -> Iterator[Run]:
        server = LiveServer(folder / "live", boot)
        try:
            yield server
        finally:
            server.close()

    return opened


def _reply_kinds() -> list[type[messages.Reply]]:
    modules = (administration, batches, blocks, messages, security)
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    return sorted((kind for kind in kinds if issubclass(kind, messages.Reply)), key=lambda kind: kind.__name__)


def _with_simulated_addresses(conversation: bytes) -> bytes:
    return conversation.replace(b"127.0.0.1:9001", b"10.0.1.1:9001").replace(b"127.0.0.1:9002", b"10.0.1.2:9001")


_TO_DATA, _TO_META = sent_to("data"), [_with_simulated_addresses(sent) for sent in sent_to("meta")]
_DATA_WORDS, _META_WORDS = words_of(DataServer.commands.items()), words_of(MetadataServer.commands.items())
_NAMES = [b"docs/a.txt-0.7", b"a//b", b"%2E-0", ".h/é-1".encode(), b"a" * 180 + b"-0", b"a~" + b"0" * 32, b"a-0-1"]
_ADDRESSES = [b":9001", b"h:1", b"[::1]:9", b"tcp:h:1", b"unix:/x", b"ssl:h:1:certKey=/x", b"tls:h:1", b"tls://h:1"]
_SECRET = b"# remark\n00000001 " + b"A" * 43 + b"=\n00000002 " + b"_" * 43 + b"\n"


def _with_token(role: str, prefix: str, conversation: bytes) -> bytes:
    line = msgspec.json.encode({"command": "auth", "token": token(role, prefix, expires=None)})
    return line + b"\n" + conversation


def _with_ticket(text: str | None) -> bytes:
    """Return a conversation that stores a block, reads it, and links it, all with one ticket."""
    reading = {"block_id": PRESENT, "ticket": text}
    lines = [
        {"command": "store", "block_id": PRESENT, "data": "MTIzNDU2Nzg=", "ticket": text},
        {"command": "store_blocks", "size": 8, "blocks": [{"block_id": TO_STORE, "size": 8, "ticket": text}]},
        {"command": "retrieve", **reading, "raw": True},
        {"command": "retrieve_blocks", "blocks": [reading]},
        {"command": "stat", **reading},
        {"command": "link", **reading, "source_block_id": TO_STORE, "source_ticket": text, "crc32c": "00000000"},
    ]
    said = [msgspec.json.encode(line) + b"\n" for line in lines]
    return b"".join([said[0], said[1], b"12345678", *said[2:]])


_TO_CLOSED_DATA = [
    *(_with_ticket(exhibit.text) for exhibit in EXHIBITS if exhibit.text is not None),
    *(_with_token("admin", "", sent) for sent in _TO_DATA),
]
_TO_CLOSED_META = [
    *(_with_token("admin", "", sent) for sent in _TO_META),
    *(_with_token(role, FITTING, sent) for sent in _TO_META for role in ("read", "append", "write")),
    b'{"command":"prove","key_id":"00000002","nonce":"0123456789abcdef0123456789abcdef"}\n'
    b'{"command":"prove","proof":"00"}\n',
]

TARGETS: Mapping[str, Target] = {
    "framing": Target(
        _function(parsers.framing),
        with_first_byte([b"10one\n0123456789two\r\n\r\n07\n1234567", b"x" * 60 + b"\r\n99\n", *_TO_DATA]),
        [b"\n", b"\r\n", b"\r", b"05\n", b"99\n", b" \n", b"x" * 60],
        3000,
        150_000,
        longest=200,
    ),
    "data_requests": Target(
        _function(parsers.Requests(DataServer.commands)), requests_to("data"), _DATA_WORDS, 3000, 150_000
    ),
    "metadata_requests": Target(
        _function(parsers.Requests(MetadataServer.commands)), requests_to("meta"), _META_WORDS, 3000, 150_000
    ),
    "replies": Target(_function(parsers.Replies(_reply_kinds())), replies(), VALUES, 1200, 80_000),
    "attributes": Target(
        _function(parsers.attributes), [b'{"a":1,"b":{"c":[1,2,{"d":"x"}]}}', b"{}"], VALUES, 500, 50_000
    ),
    "names": Target(
        _function(parsers.block_ids),
        _NAMES,
        [b"/", b"..", b".", b"%", b"%2F", b"%2E", b"-0", b".1", b"~" + b"0" * 32, b"//", b"\xff", b"\xed\xa0\x80"],
        1500,
        100_000,
        longest=600,
    ),
    "addresses": Target(
        _function(parsers.addresses),
        _ADDRESSES,
        [*(b":", b"=", b"[", b"]", b"%", b"unix:", b"ssl:", b"tls:", b"tcp:", b"timeout=", b"port=", b"65536", b"\\:")],
        500,
        50_000,
    ),
    "secret_file": Target(
        _function(parsers.secret_file), [_SECRET], [b"\n", b"#", b" ", b"=", b"00000001"], 500, 40_000
    ),
    "tokens": Target(_function(signed.tokens), signed.TOKEN_SEEDS, signed.WORDS, 1000, 80_000),
    "tickets": Target(_function(signed.tickets), signed.TICKET_SEEDS, signed.WORDS, 1000, 80_000),
    "data_server": Target(_server(open_data_server), with_first_byte(_TO_DATA), _DATA_WORDS, 800, 30_000),
    "closed_data_server": Target(
        _server(open_closed_data_server), with_first_byte(_TO_CLOSED_DATA), _DATA_WORDS, 400, 20_000
    ),
    "metadata_server": Target(_server(open_metadata_server), with_first_byte(_TO_META), _META_WORDS, 400, 10_000),
    "closed_metadata_server": Target(
        _server(open_closed_metadata_server), with_first_byte(_TO_CLOSED_META), _META_WORDS, 200, 10_000
    ),
}
