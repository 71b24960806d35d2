"""File names and block ids: what is allowed, how an id is made, and how it is spelled on disk.

| thing | form |
| --- | --- |
| file name | UTF-8, 1 to 1,024 bytes, no control characters, no empty, `.` or `..` segment between slashes |
| block id | `STEM-INDEX`, or `STEM-INDEX.GENERATION` where the short form may still be in use |
| stem | the file's name; `PREFIX~HASH` where an id would take over 200 bytes on disk, or the name ends in such |
| on disk | the id with `%`, control bytes, `/` and a leading `.` as `%XX` |

The last `-` of an id splits it without ambiguity. HASH is the first 32 hex digits of the SHA-256 of the whole name.
"""

import hashlib
import re

from filefly.errors import BadRequest

MAX_NAME_BYTES = 1024
MAX_ID_BYTES_ON_DISK = 255
"""What Linux file systems take as one name (NAME_MAX)."""

_LONG_STEM_BYTES = 200 - len("-0")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_HASHED = re.compile(r"~[0-9a-f]{32}\Z")
_ESCAPED_BYTES = re.compile(rb"[\x00-\x1f\x7f%/]|\A\.")
_ID = re.compile(r"(?P<stem>.+)-(?P<index>[0-9]{1,9})(\.(?P<generation>[0-9]{1,18}))?", re.DOTALL)
_ESCAPE = re.compile(rb"%([0-9A-F]{2})")


def check_file_name(name: str) -> None:
    """Raise BadRequest, with a sentence that names the rule, unless `name` may name a file."""
    if not name:
        raise BadRequest("missing file_name")
    _check_path(name, "file_name")


def check_block_id(block_id: str) -> None:
    """Raise BadRequest, with a sentence that names the rule, unless `block_id` may name a block."""
    if not block_id:
        raise BadRequest("missing block_id")
    _check_path(block_id, "block_id")
    if len(name_on_disk(block_id)) > MAX_ID_BYTES_ON_DISK:
        raise BadRequest(f"block_id takes more than {MAX_ID_BYTES_ON_DISK} bytes on disk")


def _check_path(name: str, field: str) -> None:
    try:
        length = len(name[: MAX_NAME_BYTES + 1].encode())  # it may be very long
    except UnicodeEncodeError:
        raise BadRequest(f"{field} is not valid UTF-8") from None
    if length > MAX_NAME_BYTES:
        raise BadRequest(f"{field} is longer than {MAX_NAME_BYTES} bytes")
    if _CONTROL.search(name):
        raise BadRequest(f"{field} has a control character")
    if not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise BadRequest(f"{field} {name!r} has an empty, '.' or '..' part")


def stem_of(name: str) -> str:
    """Return what the ids of the blocks of file `name` begin with; distinct names have distinct stems."""
    if len(name_on_disk(name)) <= _LONG_STEM_BYTES and not _HASHED.search(name):
        return name
    room = _LONG_STEM_BYTES - len("~") - 32
    prefix = name[:room]
    while len(name_on_disk(prefix)) > room:
        prefix = prefix[:-1]
    return f"{prefix}~{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def make_block_id(stem: str, index: int, generation: int | None) -> str:
    """Return the id of block `index`, in its short form if `generation` is None."""
    return f"{stem}-{index}" if generation is None else f"{stem}-{index}.{generation}"


def split_block_id(block_id: str) -> tuple[str, int, int | None] | None:
    """Return what `make_block_id` made an id of; None if it cannot have made it."""
    match = _ID.fullmatch(block_id)
    if match is None:
        return None
    generation = match["generation"]
    return match["stem"], int(match["index"]), None if generation is None else int(generation)


def name_on_disk(block_id: str) -> bytes:
    """Return the file name that keeps block `block_id`: readable, and one path segment whatever the id."""
    return _ESCAPED_BYTES.sub(lambda match: b"%%%02X" % match[0][0], block_id.encode())


def id_of_name_on_disk(name: bytes) -> str | None:
    """Return the id that `name_on_disk` spells as `name`, or None if no id does: not a block."""
    try:
        block_id = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), name).decode()
        check_block_id(block_id)
    except (UnicodeDecodeError, BadRequest):
        return None
    return block_id if name_on_disk(block_id) == name else None
