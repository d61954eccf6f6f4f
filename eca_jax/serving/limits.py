"""What a server accepts, and how it refuses the rest: a status and a reason of one line."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of a server; each refusal names its bound.

    Attributes:
      body_bytes: of a request's body.
      pixels: of an image, as it is stored and as it is resized.
      images: of a request.
      waiting_images: that are accepted and not answered yet, over all requests.
      requests: in hand at a time, those whose bodies are still on their way included.
      seconds: for a body to arrive, for the answer to be computed, and for the client to take it, each.
    """

    body_bytes: int = 32 << 20
    pixels: int = 50_000_000
    images: int = 64
    waiting_images: int = 256
    requests: int = 512
    seconds: float = 30.0

    @property
    def images_at_once(self) -> int:
        """Images of a request that may wait at all."""
        return min(self.images, self.waiting_images)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be above 0, not {getattr(self, field.name)}")


class Refused(Exception):
    """An answer other than 200: its HTTP status, the reason, and further headers."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None):
        super().__init__(reason)
        self.status, self.reason, self.headers = status, " ".join(reason.split()), headers or {}


def busy(reason: str) -> Refused:
    """What to answer when the client should come back in a second."""
    return Refused(503, reason, {"Retry-After": "1"})
