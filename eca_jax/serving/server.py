"""The process: a socket, signals, and an end that loses no accepted request."""

import asyncio
import contextlib
import logging
import signal
import socket
from types import FrameType

import uvicorn

from eca_jax.serving.app import create_app
from eca_jax.serving.service import Service

# How long new requests are still answered after SIGTERM, with `Connection: close`, so that clients with a connection
# open learn of the end from an answer and not from a reset.
GRACE_SECONDS = 1.0
# Between closing the port and closing idle connections: a request that is on its way on one of them is read first.
CLOSED_SECONDS = 0.3

log = logging.getLogger(__name__)


def serve(service: Service, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Answers requests until SIGTERM or SIGINT, then what was accepted, and returns.

    Args:
      port: 0 for any that is free; the log tells which.

    Raises:
      OSError: the port is taken.
      ValueError: there is no such port.
      FileNotFoundError, ValueError, ImportError: a model cannot be loaded; see `Models.load`.
    """
    listening = _listen(host, port, service.limits.seconds)
    config = uvicorn.Config(
        create_app(service),
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        h11_max_incomplete_event_size=64 << 10,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=1 + round(service.limits.seconds),
    )
    try:
        address, bound = listening.getsockname()[:2]
        log.info("listening on http://%s:%d", f"[{address}]" if ":" in address else address, bound)
        _Server(config, service).run(sockets=[listening])
    finally:
        listening.close()
    if service.failure:
        raise service.failure


class _Server(uvicorn.Server):
    """uvicorn's, which ends when the models cannot be loaded, and after a time of grace."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Unlike uvicorn's, which raises the signal again in the end: an end that was asked for is no failure."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        return self._service.failure is not None or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.draining = True
        if self._service.failure is None and not self.force_exit:
            log.info("ending: what is accepted is answered")
            await asyncio.sleep(GRACE_SECONDS)
            for server in self.servers:
                server.close()
            await asyncio.sleep(CLOSED_SECONDS)
        await super().shutdown(sockets)


def _listen(host: str, port: int, seconds: float) -> socket.socket:
    """The socket; its connections are dropped by the system once their clients take nothing for so many seconds."""
    if not 0 <= port < 1 << 16:
        raise ValueError(f"port must be from 0 to 65535, not {port}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(socket.socket(family, kind))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * seconds))
            listening.bind(address)
            listening.listen(128)
            stack.pop_all()
            return listening
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
