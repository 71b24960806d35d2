"""The cluster's secret: a file with one key or, while it is being changed, two.

A line of the file is `KEY-ID KEY`: eight hex digits, and 32 random bytes in URL-safe base64. The first key signs, all
of them are valid; `#` begins a remark. What is signed for one purpose is good for no other: each has a key of its own,
derived by HKDF-SHA256 (RFC 5869).
"""

import base64
import os
import re
import stat
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from attrs import define, field, frozen

from filefly.errors import FileFlyError
from filefly.private import replace, why_not_private, write_new

KEY_BYTES = 32
MOST_KEYS = 2
_MOST_FILE_BYTES = 4096
_LINE = re.compile(r"(?P<id>[0-9a-f]{8}) (?P<key>[A-Za-z0-9_-]{43}=?)")
_HEADING = "# The secret of a FileFly cluster: who can read this file can do everything. The first key signs.\n"


class SecretUnusable(FileFlyError):
    """The secret file cannot be used."""


@define(frozen=True, slots=False)
class Key:
    """One key and what is derived from it; `id` says in signatures which one it was."""

    id: str
    secret: bytes = field(repr=False)

    @cached_property
    def for_tokens(self) -> bytes:
        """What signs tokens."""
        return self._derive(b"filefly token")

    @cached_property
    def for_tickets(self) -> bytes:
        """What signs tickets."""
        return self._derive(b"filefly ticket")

    @cached_property
    def for_proofs(self) -> bytes:
        """What daemons prove themselves with."""
        return self._derive(b"filefly proof")

    def _derive(self, purpose: bytes) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256  # slow to import, and many a client signs nothing
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose).derive(self.secret)


@frozen
class Keyring:
    """The keys that are valid; the first one signs."""

    keys: Sequence[Key]

    @property
    def signing(self) -> Key:
        """The key that signs."""
        return self.keys[0]

    def find(self, key_id: object) -> Key | None:
        """Return the valid key of that id, None if there is none."""
        return next((key for key in self.keys if key.id == key_id), None)


def new_key(besides: Sequence[Key] = ()) -> Key:
    """Return a new random key, of another id than those that it will be beside."""
    taken = {key.id for key in besides}
    while (key_id := os.urandom(4).hex()) in taken:
        pass
    return Key(key_id, os.urandom(KEY_BYTES))


def create_secret(path: Path) -> Keyring:
    """Make a secret with one new key, in a new file that only its owner can read; raises SecretUnusable."""
    keyring = Keyring([new_key()])
    try:
        write_new(path, _bytes_of(keyring))
        _sync_folder(path)
    except FileExistsError:
        raise SecretUnusable(f"{path} exists; to change its key use: filefly-client secret rotate {path}") from None
    except OSError as error:
        raise SecretUnusable(f"cannot write {path}: {error.strerror}") from None
    return keyring


def rotate_secret(path: Path) -> Keyring:
    """Put a new key first into the file, and keep the one that signed until now, too; raises SecretUnusable.

    Where there are two keys already, the older one may still be what somebody has: it has to be retired first.
    """
    keys = _read(path, anyones=True).keys
    if len(keys) == MOST_KEYS:
        raise SecretUnusable(
            f"{path} has two keys already; once all daemons have read it, and what the older key signed is not used any"
            f" more, run: filefly-client secret retire {path}"
        )
    return _replace(path, Keyring([new_key(keys), *keys]))


def retire_keys(path: Path) -> Keyring:
    """Leave only the key that signs in the file; what an older one signed is void. Raises SecretUnusable."""
    return _replace(path, Keyring([_read(path, anyones=True).signing]))


def _replace(path: Path, keyring: Keyring) -> Keyring:
    """Put other keys into the file, durably and at once; it stays whose it is. A link stays, and leads to them."""
    try:
        target = path.resolve(strict=True)
        replace(target, _bytes_of(keyring), like=target.stat())
        _sync_folder(target)
    except OSError as error:
        raise SecretUnusable(f"cannot write {path}: {error.strerror}") from None
    return keyring


def _bytes_of(keyring: Keyring) -> bytes:
    lines = [f"{key.id} {base64.urlsafe_b64encode(key.secret).decode()}\n" for key in keyring.keys]
    return (_HEADING + "".join(lines)).encode("ascii")


def _sync_folder(path: Path) -> None:
    """Put the name of a file on stable storage."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_secret(path: Path) -> Keyring:
    """Return the keys in the file; raises SecretUnusable with a sentence, also if it is not this user's alone."""
    return _read(path)


def _read(path: Path, anyones: bool = False) -> Keyring:
    """Read it, also if it is another user's alone: whose it is it stays when its keys are changed."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            _check_file(path, os.fstat(file.fileno()), anyones)
            text = file.read(_MOST_FILE_BYTES + 1)
    except FileNotFoundError:
        raise SecretUnusable(
            f"there is no {path}; name the cluster's secret, or make a new one with: filefly-client secret new {path}"
        ) from None
    except OSError as error:
        raise SecretUnusable(f"cannot read {path}: {error.strerror}") from None
    return _parse(path, text)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would be waited for


def _check_file(path: Path, found: os.stat_result, anyones: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise SecretUnusable(f"{path} is no file")
    if sentence := why_not_private(path, found, anyones):
        raise SecretUnusable(sentence)


def _parse(path: Path, text: bytes) -> Keyring:
    if len(text) > _MOST_FILE_BYTES:
        raise SecretUnusable(f"{path} is no secret file: it is longer than {_MOST_FILE_BYTES} bytes")
    keys: list[Key] = []
    for line in text.decode("ascii", "replace").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise SecretUnusable(f"{path} is no secret file; make one with: filefly-client secret new FILE")
        keys.append(Key(match["id"], base64.urlsafe_b64decode(match["key"].rstrip("=") + "=")))
    if not 1 <= len(keys) <= MOST_KEYS or len({key.id for key in keys}) < len(keys):
        raise SecretUnusable(f"{path} must have one key, or two of different ids; it has {len(keys)}")
    return Keyring(keys)
