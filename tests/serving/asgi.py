"""An ASGI application in this process, spoken to message by message, so that anything at all can be sent to it."""

import asyncio
import dataclasses
import json
import threading
from typing import Any


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """The application with its lifespan, on an event loop of its own thread."""

    def __init__(self, app):
        self.app = app
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        self._started, self._stop, self._stopped = threading.Event(), asyncio.Event(), threading.Event()
        asyncio.run_coroutine_threadsafe(self._lifespan(), self.loop)
        assert self._started.wait(60)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self._stop.set)
        assert self._stopped.wait(60)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    async def _lifespan(self):
        messages = iter(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))

        async def receive():
            message = next(messages)
            if message["type"] == "lifespan.shutdown":
                await self._stop.wait()
            return message

        async def send(message):
            (self._started if message["type"].startswith("lifespan.startup") else self._stopped).set()

        await self.app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)

    def call(self, method, path, body=b"", headers=(), query=b"", **kinds):
        """One request; `body` is bytes or a list of chunks, of which None stands for a client that goes."""
        return asyncio.run_coroutine_threadsafe(
            self.request(method, path, body, headers, query, **kinds), self.loop
        ).result(60)

    async def request(self, method, path, body=b"", headers=(), query=b"", sending=None):
        chunks = list(body) if isinstance(body, list) else [body]
        answered = asyncio.Event()
        answer = Answer(0, {}, b"")

        async def receive():
            if not chunks:
                await answered.wait()
                return {"type": "http.disconnect"}
            chunk = chunks.pop(0)
            if callable(chunk):
                chunk = await chunk()
            if chunk is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

        async def send(message):
            if sending:
                await sending(message)
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {k.decode().lower(): v.decode("latin-1") for k, v in message["headers"]}
            else:
                answer.body += message.get("body", b"")
                if not message.get("more_body"):
                    answered.set()

        raw = path if isinstance(path, bytes) else path.encode()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path if isinstance(path, str) else path.decode("latin-1"),
            "raw_path": raw,
            "root_path": "",
            "query_string": query,
            "headers": [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await self.app(scope, receive, send)
        return answer
