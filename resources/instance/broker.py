"""The broker of the workers, as Celery is configured: its address, and a server that is no master any more counts as lost.

Celery knows a lost connection and connects anew; an answer like READONLY it takes for the task's own trouble, and the worker
dies of it while its connection goes on leading to the old master.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import redis
from kombu.transport import redis as kombu_redis

from quantum_core.settings import Settings, sentinels_of
from resources.store.transport.connection import sentinel_options
from resources.store.transport.unavailable import ELSEWHERE, condition_of

if TYPE_CHECKING:
    Base = redis.Connection
else:
    Base = object


class Following(Base):
    """A connection that is given up when its server answers that it is not the one to use."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read one reply.

        Raises
        ------
        redis.ConnectionError
            Also for READONLY, MASTERDOWN, CLUSTERDOWN and MOVED.
        """
        try:
            return super().read_response(*args, **kwargs)
        except tuple(ELSEWHERE) as error:
            self.disconnect()  # type: ignore[no-untyped-call]
            msg = f"the broker is {condition_of(error)}"
            raise redis.ConnectionError(msg) from error


for channel in (kombu_redis.Channel, kombu_redis.SentinelChannel):
    for attribute in ("connection_class", "connection_class_ssl"):
        plain = getattr(channel, attribute)
        setattr(channel, attribute, type(f"Following{plain.__name__}", (Following, plain), {}))


def broker_arguments(settings: Settings, options: dict[str, Any]) -> dict[str, Any]:
    """Give the Celery settings that lead to the broker.

    Parameters
    ----------
    settings
        CELERY_BROKER_URL or the address of the store, and the certificates.
    options
        Of its transport; with sentinels, what they are asked is added.
    """
    url = settings.broker_url
    arguments: dict[str, Any] = {"broker_url": url, "broker_transport_options": options}
    if (at := sentinels_of(url)) is not None:
        arguments["broker_url"] = ";".join(f"sentinel://{at.user}{host}:{port}/{at.db}" for host, port in at.hosts)
        arguments["broker_transport_options"] = options | {
            "master_name": at.service,
            "sentinel_kwargs": sentinel_options(settings, at),
        }
    if url.startswith("rediss"):
        # Celery asks for these by name, and would take a rediss:// address without them for "do not verify".
        arguments["broker_use_ssl"] = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, **settings.tls_files}
    return arguments
