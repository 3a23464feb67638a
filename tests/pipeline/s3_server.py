"""An S3 API of this process's own, whose answers fail now and then."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

FAULTS = ("500", "503", "reset", "slow", "cut")
"""What befalls a request, in turn: two errors; the connection is lost before the work is done;
the answer comes late; the work is done, but the answer is cut off in the middle."""

SLOW_SECONDS = 0.2
_RESET = struct.pack("ii", 1, 0)  # lingers no time: the client is told so, and gets no answer


@dataclass
class Faulty:
    """A WSGI application in front of another, which spoils every n-th answer."""

    app: Callable[[dict[str, Any], Any], Iterable[bytes]]
    every: int
    """0: none."""
    calls: int = 0
    met: Counter[str] = field(default_factory=Counter[str])
    """Faults by kind and method, as "cut GET"."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        fault = self._fault(environ["REQUEST_METHOD"])
        if fault in ("500", "503"):
            word = {"500": "InternalError", "503": "SlowDown"}[fault]
            body = f"<?xml version='1.0'?><Error><Code>{word}</Code></Error>".encode()
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(f"{fault} {word}", [("Content-Length", str(len(body)))])
            return [body]
        if fault == "reset":
            _hang_up(environ)
            return []
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        answer = self.app(environ, start_response)
        return _cut(environ, answer) if fault == "cut" else answer

    def _fault(self, method: str) -> str | None:
        with self._lock:
            self.calls += 1
            if not self.every or self.calls % self.every:
                return None
            fault = FAULTS[self.calls // self.every % len(FAULTS)]
            self.met[f"{fault} {method}"] += 1
            return fault


def _cut(environ: dict[str, Any], answer: Iterable[bytes]) -> Iterator[bytes]:
    """Half of it, and then nothing."""
    whole = b"".join(answer)
    yield whole[: len(whole) // 2]
    _hang_up(environ)


def _hang_up(environ: dict[str, Any]) -> None:
    connection: socket.socket = environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def s3_server(*, every: int) -> Generator[tuple[str, Faulty]]:
    """An endpoint with the bucket "bucket", and what spoils its answers."""
    import logging

    # by name: types are checked on machines without them
    moto: Any = import_module("moto.moto_server.werkzeug_app")
    werkzeug: Any = import_module("werkzeug.serving")

    faulty = Faulty(moto.DomainDispatcherApplication(moto.create_backend_app), 0)
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = werkzeug.make_server("127.0.0.1", 0, faulty, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        make_bucket(endpoint)
        faulty.every = every
        yield endpoint, faulty
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "very-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def make_bucket(endpoint: str) -> None:
    """The one that storages of tests are in."""
    from pyarrow import fs

    client = fs.S3FileSystem(
        access_key=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
        secret_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        region=ENVIRONMENT["AWS_DEFAULT_REGION"],
        endpoint_override=endpoint,
        allow_bucket_creation=True,
    )
    client.create_dir("bucket")
