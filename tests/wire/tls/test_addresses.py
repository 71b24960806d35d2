from typing import Any

import pytest

from filefly.wire.address import (
    HostPort,
    check_client_address,
    client_endpoint,
    host_of,
    listening_endpoint,
    parse_host_port,
    resolve,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tls://nas:9001", HostPort("nas", 9001, tls=True)),
        ("tls://:9001", HostPort("", 9001, tls=True)),
        ("tls://[::1]:9001", HostPort("::1", 9001, tls=True)),
        ("tls://10.0.0.5:9001", HostPort("10.0.0.5", 9001, tls=True)),
    ],
)
def test_an_address_with_tls_is_understood_and_spelled(text: str, expected: HostPort) -> None:
    """As one without, and it is another one."""
    assert expected == parse_host_port(text)
    assert text == str(expected)
    assert parse_host_port(text.removeprefix("tls://")) != expected
    check_client_address(text)


@pytest.mark.parametrize(
    "text", ["tls://", "tls://nas", "tls://nas:0", "tls://nas:9001/x", "tls://tls://nas:9", "TLS://nas:9"]
)
def test_what_is_no_address_is_none_with_tls_either(text: str) -> None:
    """Nor is it an endpoint of Twisted's, whose name begins alike."""
    with pytest.raises(ValueError, match=r" is not an address; write HOST:PORT$"):
        check_client_address(text)


def test_an_address_without_a_host_means_the_host_that_one_knows() -> None:
    """With TLS, that host must prove who it is; one that names its host keeps it."""
    assert "tls://nas:9001" == resolve("tls://:9001", "nas")
    assert "tls://[::1]:9001" == resolve("tls://:9001", "::1")
    assert "tls://attic:9001" == resolve("tls://attic:9001", "nas")
    assert ("nas", "localhost") == (host_of("tls://nas:9000"), host_of("tls://:9000"))


def test_a_server_does_not_listen_at_such_an_address(reactor: Any) -> None:
    """What it speaks, other options say."""
    with pytest.raises(ValueError, match=r"'tls://:0' is for those who connect; a server speaks TLS if "):
        listening_endpoint(reactor, "tls://:0")


def test_an_endpoint_of_twisteds_is_still_one(reactor: Any) -> None:
    """`tls:HOST:PORT`, whose trust is the system's."""
    assert client_endpoint(reactor, "tls:nas:9001") is not None
