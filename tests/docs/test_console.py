"""The runner of terminal sessions itself."""

from pathlib import Path

import pytest

from tests.docs.console import run_document

SESSION = r"""
# A document

```console
$ twistd --pidfile=data.pid filefly-data --addr :9001 --storage_dir /tmp/blocks
$ twistd -n --pidfile= filefly-meta --addr :9000 --data-servers :9001
...
2026-01-01T00:00:00+0000 [filefly.daemon.service.DaemonService#info] filefly-meta is listening on ...:9000
```

```sh
exit 1
```

```console
$ nc -N localhost 9001 <<'END'
> {"command":"store","block_id":"a-0","data":"YQ=="}
> {"command":"status"}
>
> END
{"status":"ok","size":1,"crc32c":"c1d04330"}
{"status":"ok","storage_id":"0","free_bytes":0,"used_bytes":1,"block_count":1,"version":"0"}
$ mkdir sub; cd sub; where=/tmp/blocks
$ ls $where | \
>   cat
a-0
$ echo $where; pwd
/tmp/blocks
~/sub
$ filefly-client stat nothing
filefly-client: ...file not found
$ printf '1\n2\n3\n4\n'
1
...
3
...
$ kill $(cat ../data.pid)
$ twistd -n --pidfile= filefly-data --addr=:9102
...
^C
$ twistd --pidfile=again.pid filefly-data --storage-dir /srv/blocks
$ filefly-client ping localhost:9001
localhost:9001 is up
```
"""


def _run(text: str, folder: Path) -> None:
    document = folder / "document.md"
    document.write_text(text)
    run_document(document, folder)


def test_a_session_with_daemons_here_documents_and_state(tmp_path: Path) -> None:
    """Daemons in all forms, here-documents, variables, `cd`, ports, paths, errors and `...` work as in a terminal."""
    _run(SESSION, tmp_path)


@pytest.mark.parametrize(
    ("shown", "complaint"),
    [
        ("$ echo 1\n2", "shown:   2\nprinted: 1"),
        ("$ true\n2", "shown, but not printed: 2"),
        ("$ echo 1", "printed, but not shown: 1"),
        ("$ false", "exit status 1"),
        ("$ echo 1\n...\n2", "document.md:2:"),
        ('$ echo \'{"a":1}\'\n{"a":2}', "document.md:2:"),
    ],
)
def test_what_differs_is_told_with_its_line(tmp_path: Path, shown: str, complaint: str) -> None:
    """A document that shows something else fails, and the message says where."""
    with pytest.raises(AssertionError) as failed:
        _run(f"```console\n{shown}\n```\n", tmp_path)
    assert complaint in str(failed.value)
    assert "document.md:2:" in str(failed.value)
