"""What a server tells Prometheus of itself."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _Busy(Collector):
    """A counter that is read where it is kept. Its rate is the share of the time in which the device was busy."""

    def __init__(self, seconds: Callable[[], float]):
        self._seconds = seconds

    def collect(self) -> list[Metric]:
        text = "Time in which the device had a batch to work on; its rate is the busy share."
        return [CounterMetricFamily("eca_device_busy_seconds", text, value=self._seconds())]


class Metrics:
    """The metrics of one server.

    Attributes:
      batch_images: histogram of the images of each batch, without padding.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.batch_images = Histogram(
            "eca_batch_images", "Images of a batch.", buckets=_IMAGES, registry=self._registry
        )
        self._requests = Counter("eca_requests", "Requests answered.", ("endpoint", "status"), registry=self._registry)
        self._seconds = Histogram(
            "eca_request_seconds",
            "From a request's first byte to its answer's last.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=self._registry,
        )

    def watch(self, waiting: Callable[[], float], accepted: Callable[[], float], busy: Callable[[], float]) -> None:
        """Adds what is read when it is asked for: images in the queue, images accepted, seconds of a busy device."""
        Gauge("eca_queue_images", "Images that wait for a batch.", registry=self._registry).set_function(waiting)
        Gauge("eca_accepted_images", "Images accepted and not answered yet.", registry=self._registry).set_function(
            accepted
        )
        self._registry.register(_Busy(busy))

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)

    def measured(self, app: ASGIApp) -> ASGIApp:
        """`app`, with each of its requests counted and timed."""

        async def measure(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            started, status = time.monotonic(), 500

            async def noting(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, noting)
            finally:
                # Named by what answered: paths that clients make up would be series without end.
                name = getattr(scope.get("endpoint"), "__name__", "none")
                self._requests.labels(name, str(status)).inc()
                self._seconds.labels(name).observe(time.monotonic() - started)

        return measure
