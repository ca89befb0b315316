"""A PostgreSQL of the tests' own."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as db

from tests.servers import free_port

POSTGRES_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL of our own; it refuses to run as root, so that it may need another account."""
    if not POSTGRES_PROGRAMS:
        pytest.fail("PostgreSQL is not installed: apt-get install postgresql")
    programs = POSTGRES_PROGRAMS[-1]
    account = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="quantum-postgres-"))
    if account:
        shutil.chown(folder, "postgres")
    data, port = folder / "data", free_port()
    initialise = [programs / "initdb", "-D", data, "-U", "quantum", "-A", "trust", "--no-sync", "-E", "UTF8"]
    subprocess.run([*account, *initialise], check=True, stdout=subprocess.DEVNULL, cwd="/")
    options = ["-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"]
    control = [*account, programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
    subprocess.run([*control, "-o", " ".join(map(str, options[2:])), "start"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    yield f"postgresql+psycopg2://quantum@127.0.0.1:{port}"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server: str) -> Callable[[], str]:
    """Make an empty database and name it."""

    def make() -> str:
        name = f"test_{uuid4().hex}"
        engine = db.create_engine(f"{postgres_server}/postgres", isolation_level="AUTOCOMMIT", poolclass=db.NullPool)
        with engine.connect() as conn:
            conn.execute(db.text(f"CREATE DATABASE {name}"))
        return f"{postgres_server}/{name}"

    return make
