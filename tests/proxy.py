"""A connection that breaks at a chosen byte, between a client and a real server."""

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit


class CuttingProxy:
    """Passes bytes on to a server until ``cut_after`` bytes came from the client, then cuts every connection.

    Parameters
    ----------
    url
        Address of the real server.
    cut_after
        Bytes of the client that still reach the server; ``None`` never cuts.
    """

    def __init__(self, url: str, cut_after: int | None = None) -> None:
        parts = urlsplit(url)
        self.target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self.cut_after = cut_after
        self.seen = 0
        self.sent = bytearray()  # what reached the server
        self.lock = threading.Lock()
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "CuttingProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()
        self.cut()

    def cut(self) -> None:
        """Close every connection, both ways."""
        with self.lock:
            for pair in self.pairs:
                for end in pair:
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                    end.close()
            self.pairs.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.cut_after is not None and self.seen >= self.cut_after:
                client.close()
                continue
            server = socket.create_connection(self.target)
            with self.lock:
                self.pairs.append((client, server))
            threading.Thread(target=self._upstream, args=(client, server), daemon=True).start()
            threading.Thread(target=self._downstream, args=(server, client), daemon=True).start()

    def _upstream(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while block := client.recv(65536):
                if self.cut_after is not None and self.seen + len(block) >= self.cut_after:
                    server.sendall(block[: self.cut_after - self.seen])
                    self.sent += block[: self.cut_after - self.seen]
                    self.seen = self.cut_after
                    self.cut()
                    return
                self.seen += len(block)
                self.sent += block
                server.sendall(block)

    @staticmethod
    def _downstream(server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while block := server.recv(65536):
                client.sendall(block)


class Signpost:
    """An address that leads to one server, and later to another, while connections made before live on with the first.

    Parameters
    ----------
    port
        Of the server new connections are led to, on 127.0.0.1; may be changed.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}"
        self.ends: list[socket.socket] = []
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def __enter__(self) -> "Signpost":
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.ends.append(client)
            try:
                server = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                client.shutdown(socket.SHUT_RDWR)
                continue
            self.ends.append(server)
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(65536):
                target.sendall(block)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
