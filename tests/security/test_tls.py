"""Redis over TLS, as shipped: the client verifies who answers, and says plainly when it cannot."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from celery import Celery

from quantum_core.contracts.roles import BROKER, PROPOSALS
from quantum_core.settings import load_settings
from resources.instance.launcher import celery_arguments
from resources.store.redis_store import RedisStore
from resources.store.transport.unavailable import RedisUnavailableError
from tests.servers import certificates, server_of, shipped_config, url_of, with_passwords


class Encrypted(NamedTuple):
    """A server that answers over TLS only."""

    port: int
    ca: Path


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    """Start Debian's Redis with the shipped configuration and users (the embedded Valkey is built without TLS)."""
    folder = tmp_path_factory.mktemp("tls")
    ca = certificates(folder)
    with_passwords(folder)
    with server_of("redis", folder, *shipped_config(folder)) as port:
        yield Encrypted(port, ca)


def ask(port: int, ca: Path | str, host: str = "127.0.0.1") -> list[object]:
    url = url_of(PROPOSALS, port, "rediss").replace("127.0.0.1", host)
    store = RedisStore(load_settings(redis_url=url, redis_ca_file=str(ca)))
    try:
        return store.run("asking", [("PING",)])
    finally:
        store.client.close()


def test_a_server_whose_certificate_our_authority_signed_is_used(encrypted: Encrypted) -> None:
    """By address or by name, as the certificate says."""
    assert ask(encrypted.port, encrypted.ca) == [b"PONG"]
    assert ask(encrypted.port, encrypted.ca, "localhost") == [b"PONG"]


def test_an_unknown_authority_or_another_name_is_refused_in_words(encrypted: Encrypted, tmp_path: Path) -> None:
    """Whoever sits between would read the password first."""
    for ca, host in (("", "127.0.0.1"), (certificates(tmp_path, name="other"), "127.0.0.1"), (encrypted.ca, "127.0.0.2")):
        with pytest.raises(RedisUnavailableError, match="REDIS_CA_FILE") as caught:
            ask(encrypted.port, ca, host)
        assert "planted" not in str(caught.value)


def test_the_server_speaks_to_nobody_in_the_clear(encrypted: Encrypted) -> None:
    """A forgotten s in an address must not send the password readable."""
    store = RedisStore(load_settings(redis_url=url_of(PROPOSALS, encrypted.port)))
    with pytest.raises(RedisUnavailableError):
        store.run("asking", [("PING",)])


@pytest.mark.slow
def test_where_clients_need_certificates_store_and_broker_show_theirs(tmp_path: Path) -> None:
    """As the shipped configuration says how: ``tls-auth-clients yes``."""
    ca = certificates(tmp_path)
    with_passwords(tmp_path)
    ours = {"redis_cert_file": str(tmp_path / "server.crt"), "redis_key_file": str(tmp_path / "server.key")}
    with server_of("redis", tmp_path, *shipped_config(tmp_path), "--tls-auth-clients", "yes") as port:
        for files, works in ((ours, True), ({}, False)):
            common = {"redis_ca_file": str(ca), **files}
            store = RedisStore(load_settings(redis_url=url_of(PROPOSALS, port, "rediss"), **common))
            arguments = celery_arguments(load_settings(celery_broker_url=url_of(BROKER, port, "rediss"), **common))
            del arguments["default_queue"]
            sender = Celery("sender", set_as_current=False, **arguments)
            if works:
                assert store.run("asking", [("PING",)]) == [b"PONG"]
                assert sender.connection_for_write().connect()
            else:
                with pytest.raises(RedisUnavailableError, match="REDIS_CERT_FILE"):
                    store.run("asking", [("PING",)])
                with pytest.raises(redis.ConnectionError):
                    sender.connection_for_write().connect()
            store.client.close()
            sender.close()


@pytest.mark.slow
def test_the_broker_is_verified_too(encrypted: Encrypted, tmp_path: Path) -> None:
    """Celery takes a rediss:// address that says nothing of certificates for leave to verify none."""
    url = url_of(BROKER, encrypted.port, "rediss")
    for ca, works in ((encrypted.ca, True), (certificates(tmp_path, name="other"), False)):
        arguments = celery_arguments(load_settings(celery_broker_url=url, redis_ca_file=str(ca)))
        del arguments["default_queue"]
        sender = Celery("sender", set_as_current=False, **arguments)
        if works:
            assert sender.connection_for_write().connect()
        else:
            with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
                sender.connection_for_write().connect()
        sender.close()
