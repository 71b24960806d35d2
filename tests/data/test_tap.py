from pathlib import Path

import pytest
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from filefly.all_in_one import Options as AllInOneOptions
from filefly.data.disk import Disk
from filefly.data.storage import open_storage
from filefly.data.tap import NAME, Options, take_storage

MIB = 1024 * 1024


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(list(arguments))
    return options


def test_the_defaults_need_no_option() -> None:
    """A data server that is started without options works."""
    assert {
        "addr": ":9001",
        "storage-dir": "./blocks",
        "max-block-size": 64 * MIB,
        "max-line": 24 * MIB,
        "reserve": 1024 * MIB,
        "disk-threads": 8,
        "no-local-reads": 0,
    }.items() <= dict(parsed()).items()


@pytest.mark.parametrize("kind", [Options, AllInOneOptions])
def test_local_reads_can_be_turned_off(kind: type[UsageOptions]) -> None:
    """In either form of the data server."""
    options = kind()
    options.parseOptions(["--no-local-reads"])
    assert 1 == options["no-local-reads"]


@pytest.mark.parametrize("option", ["--storage-dir", "--storage_dir"])
def test_both_spellings_of_the_folder_are_one_option(option: str) -> None:
    """The seed's option still works."""
    assert "/srv/x" == parsed(option, "/srv/x")["storage-dir"]


def test_the_folder_given_twice_alike_is_fine() -> None:
    """Nothing is in doubt."""
    assert "/srv/x" == parsed("--storage-dir", "/srv/x", "--storage_dir", "/srv/x")["storage-dir"]


def test_two_folders_are_refused() -> None:
    """Nobody has to guess which one counts."""
    with pytest.raises(UsageError, match=r"are one option; give it once$"):
        parsed("--storage-dir", "/srv/x", "--storage_dir", "/srv/y")


def test_sizes_are_written_with_units() -> None:
    """A person counts no zeros."""
    options = parsed("--max-block-size", "8MiB", "--max-line", "64KiB", "--reserve", "512MiB")
    assert (8 * MIB, 65536, 512 * MIB) == (options["max-block-size"], options["max-line"], options["reserve"])


def test_no_reserve_is_one_too() -> None:
    """A small disk may be filled to the brim."""
    assert 0 == parsed("--reserve", "0")["reserve"]


@pytest.mark.parametrize("value", ["-1", "x", "1.5", ""])
def test_a_bad_reserve_is_refused(value: str) -> None:
    """Twistd shows the sentence with its usage."""
    with pytest.raises(UsageError):
        parsed("--reserve", value)


@pytest.mark.parametrize("option", ["--max-block-size", "--max-line", "--disk-threads"])
@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5"])
def test_a_bad_number_is_refused(option: str, value: str) -> None:
    """Twistd shows the sentence with its usage."""
    with pytest.raises(UsageError):
        parsed(option, value)


def test_a_storage_gets_an_identity_of_its_own(tmp_path: Path) -> None:
    """No two storages have the same one."""
    storages = [take_storage(NAME, tmp_path / name) for name in ("one", "two")]
    assert 2 == len({storage.storage_id for storage in storages})
    for storage in storages:
        storage.release()


def test_a_storage_that_cannot_be_used_ends_the_process_with_a_sentence(tmp_path: Path) -> None:
    """The sentence begins with the daemon's name."""
    storage = open_storage(tmp_path, lambda: "mine", Disk())
    with pytest.raises(SystemExit) as caught:
        take_storage(NAME, tmp_path)
    storage.release()
    assert f"filefly-data: {tmp_path} is in use by another data server; stop that one first" == caught.value.code
