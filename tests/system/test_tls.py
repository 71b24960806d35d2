"""TLS between real processes, with the certificates that `filefly-client tls new` makes."""

import json
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import frozen

from tests.certificates import Made, make, replace_host
from tests.system.processes import BIN, Daemon, free_ports, talk, wait_until
from tests.system.talkers import need

MEBI = 1 << 20


@frozen
class TlsCluster:
    """A metadata server and a data server that speak TLS."""

    folder: Path
    made: Made
    meta: Daemon
    data: Daemon

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"tls://localhost:{self.meta.ports[0]}"

    def client(self, *arguments: str | Path, address: str | None = None) -> str:
        """Run `filefly-client`, which believes the cluster's CA unless it is told otherwise; return what it prints."""
        return run_client(self.folder, "--metadata-addr", address or self.address, "--tls-ca", self.made.ca, *arguments)


def run_client(folder: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [BIN / "filefly-client", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


@contextmanager
def daemons(*started: Daemon) -> Iterator[None]:
    """End them all in the end; none of them may have logged a traceback."""
    try:
        yield
        for daemon in started:
            daemon.stop()
            assert "Traceback" not in daemon.log.read_text(), daemon.log.read_text()
    finally:
        for daemon in started:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.kill()


@contextmanager
def running(folder: Path, *options: str, made: Made | None = None) -> Iterator[TlsCluster]:
    """Run a cluster that speaks TLS until the end of the block."""
    made = made or make(folder / "tls")
    given = [*made.options, *options]
    data = Daemon(["filefly-data", "--addr", "127.0.0.1:0", "--storage-dir", "blocks", *given], folder, "data").start()
    servers = ["--data-servers", f"tls://{data.address}"]
    with daemons(data):
        meta = Daemon(["filefly-meta", "--addr", "127.0.0.1:0", *servers, *given], folder, "meta").start()
        with daemons(meta):
            yield TlsCluster(folder, made, meta, data)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsCluster]:
    """Run a cluster that asks nobody for a certificate."""
    with running(tmp_path_factory.mktemp("tls")) as cluster:
        yield cluster


def test_a_client_puts_files_in_and_gets_them_back(cluster: TlsCluster, tmp_path: Path) -> None:
    """The data server is told as `tls://`, and is up: the metadata server believes it."""
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * (20 * MEBI // 256) + b"!")
    assert "" == cluster.client("upload", "-q", source, "--file-name", "x")
    assert "" == cluster.client("download", "-q", "x", "-o", tmp_path / "target")
    assert source.read_bytes() == (tmp_path / "target").read_bytes()
    [server] = json.loads(f"[{cluster.client('servers', '--json')}]")
    assert (f"tls://{cluster.data.address}", "up") == (server["address"], server["state"])


def test_nothing_moves_but_tls(tmp_path: Path) -> None:
    """Bytes of large files, too, where no file is handed over on the machine; memory stays bounded."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * (192 * MEBI))
    made = make(tmp_path / "tls")
    with running(tmp_path, made=made) as cluster:
        cluster.data.stop()
        cluster.data.arguments = [*cluster.data.arguments, "--no-local-reads"]
        cluster.data.start()
        assert "" == cluster.client("upload", "-q", source, "--file-name", "x")
        assert "" == cluster.client("download", "-q", "x", "-o", tmp_path / "target")
        assert source.read_bytes() == (tmp_path / "target").read_bytes()
        assert cluster.data.peak_memory() < 150 * MEBI


def by_hand(cluster: TlsCluster, command: str, requests: Sequence[str]) -> list[str]:
    """Say `requests` through a program to the metadata server, and return the lines that come back."""
    script = command.format(port=cluster.meta.ports[0], ca=cluster.made.ca)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script}"],
        input="".join(f"{request}\n" for request in requests),
        cwd=cluster.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 0 == done.returncode, done
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("ncat", "ncat --ssl --ssl-verify --ssl-trustfile {ca} localhost {port}"),
        (
            "openssl",
            "(cat; sleep 1) | openssl s_client -quiet -no_ign_eof -CAfile {ca} -verify_return_error"
            " -connect localhost:{port}",
        ),
    ],
)
def test_a_person_talks_to_it(cluster: TlsCluster, program: str, command: str) -> None:
    """All requests at once, and the end of input behind them, as with nc."""
    need(program)
    requests = ['{"command":"ping"}', '{"command":"get_metadata","file_name":"nobody"}', '{"command":"ping"}']
    replies = [json.loads(line) for line in by_hand(cluster, command, requests)]
    assert [None, "file not found", None] == [reply.get("error") for reply in replies]


def s_client(port: int, *arguments: str) -> str:
    """Return what `openssl s_client` says of a handshake."""
    need("openssl")
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_versions_of_tls_are_refused(cluster: TlsCluster, version: str) -> None:
    """By the server, however willing the client is."""
    said = s_client(cluster.meta.ports[0], version, "-cipher", "DEFAULT:@SECLEVEL=0")
    assert "alert protocol version" in said
    assert "Cipher is (NONE)" in said


@pytest.mark.parametrize(("version", "cipher"), [("-tls1_2", "ECDHE-ECDSA-AES"), ("-tls1_3", "TLS_")])
def test_new_ones_agree_on_what_is_good(cluster: TlsCluster, version: str, cipher: str) -> None:
    """A cipher that encrypts and authenticates in one, and no compression."""
    said = s_client(cluster.meta.ports[0], version, "-CAfile", str(cluster.made.ca))
    assert f"Cipher is {cipher}" in said
    assert "GCM" in said or "CHACHA20" in said
    assert "Compression: NONE" in said
    assert "Verify return code: 0 (ok)" in said


def test_old_ciphers_are_refused(cluster: TlsCluster) -> None:
    """Those that authenticate before they encrypt."""
    said = s_client(cluster.meta.ports[0], "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA")
    assert "alert handshake failure" in said


# Who is whom


def test_a_client_believes_only_its_ca(cluster: TlsCluster, tmp_path: Path) -> None:
    """Another one, or the system's where none is named."""
    other = make(tmp_path / "other")
    expected = f"filefly-client: no TLS with {cluster.address}: "
    for options in (["--tls-ca", str(other.ca)], []):
        said = run_client(tmp_path, "--metadata-addr", cluster.address, *options, "ls")
        assert said.startswith(expected)
        assert "is signed by nobody that is trusted here (--tls-ca)" in said


def test_a_client_believes_only_the_right_host(tmp_path: Path) -> None:
    """The certificate is not for the name that it dialled."""
    made = make(tmp_path / "tls", "other.example")
    _without_local_names(made)
    data = Daemon(["filefly-data", "--addr", "127.0.0.1:0", "--storage-dir", "b", *made.options], tmp_path, "data")
    with daemons(data.start()):
        address = f"tls://{data.address}"
        said = run_client(tmp_path, "--metadata-addr", address, "--tls-ca", made.ca, "ls")
    assert f"filefly-client: no TLS with {address}: its certificate is for other.example, not for 127.0.0.1" in said


def _without_local_names(made: Made) -> None:
    """Sign the host's certificate again, for its name alone, with openssl."""
    need("openssl")
    (made.folder / "extensions").write_text(f"subjectAltName=DNS:{made.host}\n")
    for command in (
        f"openssl req -new -key {made.key} -subj /CN=x -out request",
        f"openssl x509 -req -in request -CA ca.crt -CAkey ca.key -days 3 -extfile extensions -out {made.certificate}",
    ):
        subprocess.run(command.split(), cwd=made.folder, check=True, capture_output=True)


def test_who_does_not_speak_tls_is_told(cluster: TlsCluster, tmp_path: Path) -> None:
    """With `nc`, and with a client that was given no `tls://`."""
    [line] = talk(cluster.meta.ports[0], b'{"command":"ping"}\n').splitlines()
    assert json.loads(line)["error"].startswith("this port speaks TLS: its address is tls://HOST:PORT; ")
    said = cluster.client("ls", address=f"localhost:{cluster.meta.ports[0]}")
    assert said.startswith("filefly-client: this port speaks TLS: its address is tls://HOST:PORT")


def test_servers_that_want_certificates_let_nobody_else_in(tmp_path: Path) -> None:
    """Each other they know; a client shows one, too. No local socket lets others in behind their back."""
    made = make(tmp_path / "tls")
    with running(tmp_path, "--tls-client-ca", str(made.ca), made=made) as cluster:
        assert "it wants to see a certificate (--tls-cert, --tls-key)" in cluster.client("ls")
        shown = ["--tls-cert", str(made.certificate), "--tls-key", str(made.key)]
        (tmp_path / "x").write_bytes(b"hello")
        assert "" == cluster.client("upload", "-q", tmp_path / "x", *shown)
        assert "hello" == cluster.client("cat", "x", *shown)
        assert not _has_local_socket(cluster)


def test_the_local_socket_is_there_for_clients_of_the_machine(cluster: TlsCluster) -> None:
    """They ask for its name under TLS, so that they have it from the right data server."""
    assert _has_local_socket(cluster)


def _has_local_socket(cluster: TlsCluster) -> bool:
    return "starting on '\\x00filefly-" in cluster.data.log.read_text()


def test_a_certificate_is_changed_while_it_runs(tmp_path: Path) -> None:
    """Within seconds new connections get the new one, and a client of the cluster notices nothing."""
    made = make(tmp_path / "tls")
    with running(tmp_path, made=made) as cluster:
        where = ("127.0.0.1", cluster.data.ports[0])
        before = ssl.get_server_certificate(where)
        assert made.certificate.read_text() == before
        replace_host(made, "other")
        wait_until(lambda: ssl.get_server_certificate(where) != before, "the new certificate")
        assert made.certificate.read_text() == ssl.get_server_certificate(where)
        assert "up" in cluster.client("servers")
        made.certificate.write_text("garbage")
        wait_until(lambda: "what was read before stays in use" in cluster.data.log.read_text(), "the warning")
        assert "up" in cluster.client("servers")


# In one process, and at start


def test_all_in_one_process_speaks_tls(tmp_path: Path) -> None:
    """Its data servers are told as `tls://`, by the name that --addr has."""
    made, first = make(tmp_path / "tls"), free_ports(3)
    arguments = ["filefly", "--addr", f"localhost:{first}", "--root", "root", *made.options]
    daemon = Daemon(arguments, tmp_path, "all")
    with daemons(daemon.start()):
        client = ["--metadata-addr", f"tls://localhost:{first}", "--tls-ca", str(made.ca)]
        (tmp_path / "x").write_bytes(b"hello")
        assert "" == run_client(tmp_path, *client, "upload", "-q", "x")
        assert "hello" == run_client(tmp_path, *client, "cat", "x")
        listed = run_client(tmp_path, *client, "servers", "--json").splitlines()
        expected = [f"tls://localhost:{first + number}" for number in (1, 2)]
        assert expected == sorted(json.loads(line)["address"] for line in listed)


def test_an_ssl_endpoint_string_works_as_ever(tmp_path: Path) -> None:
    """Its options are its own."""
    made, port = make(tmp_path / "tls"), free_ports(1)
    endpoint = f"ssl:{port}:interface=127.0.0.1:privateKey={made.key}:certKey={made.certificate}"
    daemon = Daemon(["filefly-data", "--addr", endpoint, "--storage-dir", "b"], tmp_path, "data")
    with daemons(daemon.start()):
        said = run_client(tmp_path, "ping", f"tls://localhost:{port}", "--tls-ca", made.ca)
        assert f"tls://localhost:{port} is up\n" == said


@pytest.mark.parametrize("plugin", ["filefly-data", "filefly-meta", "filefly"])
def test_a_certificate_that_has_expired_ends_the_start(tmp_path: Path, plugin: str) -> None:
    """With one sentence, and nothing listens."""
    old = make(tmp_path / "old", days_ago=900)
    own = ["--data-servers", ":1"] if plugin == "filefly-meta" else []
    command = ["-n", "--pidfile=", plugin, "--addr", f"127.0.0.1:{free_ports(3)}", *own, *old.options]
    done = subprocess.run(
        [BIN / "twistd", *command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert 1 == done.returncode
    [sentence] = done.stderr.splitlines()
    assert f": TLS: {old.certificate} has expired on 20" in sentence
