"""A bucket on this machine: as much of Google Cloud Storage's JSON interface as TensorStore uses, and the same objects
behind `epath`. Objects are files, so that both see the same ones."""

import contextlib
import json
import threading
import types
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

from etils.epath import backend, gpath
from orbax.checkpoint._src.path import gcs_utils

from eca_jax.data.runtime import tensorflow


class Bucket:
    """gs://NAME/... under `root` while `open_bucket` lasts.

    Attributes:
      uploads: how many objects TensorStore has stored.
      capacity: how many it may; the others are refused with status 403.
    """

    def __init__(self, root: Path):
        self.root, self.uploads, self.capacity = root, 0, float("inf")

    def local(self, path):
        text = str(path)
        return str(self.root / text.removeprefix("gs://")) if text.startswith("gs://") else path

    def __getattr__(self, name):
        """epath's backend: that for local files, elsewhere."""

        def call(*args, **keys):
            args = [self.local(argument) for argument in args]
            if name == "open" and "r" not in args[1]:  # a bucket has no directories to make first
                Path(args[0]).parent.mkdir(parents=True, exist_ok=True)
            found = getattr(backend.os_backend, name)(*args, **keys)
            return [path.replace(str(self.root), "gs:/") for path in found] if name == "glob" else found

        return call


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def _place(self):
        """(kind, name of the bucket, name of the object, query) of a request."""
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        kind, _, rest = url.path.partition("/storage/v1/b/")
        name, _, item = rest.partition("/o")
        return kind, name, urllib.parse.unquote(item.removeprefix("/")) or query.get("name", ""), query

    def _answer(self, status, content=b"", **headers):
        self.send_response(status)
        for key, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def _about(self, name, path):
        return {
            "name": name,
            "size": str(path.stat().st_size),
            "generation": str(path.stat().st_mtime_ns),
            "updated": "2026-01-01T00:00:00Z",
        }

    def do_GET(self):
        _, name, item, query = self._place()
        root = self.bucket.root / name
        if not item:
            files = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
            chosen = [f for f in files if f.startswith(query.get("prefix", "")) and f >= query.get("startOffset", "")]
            chosen = [f for f in chosen if f < query.get("endOffset", "\U0010ffff")]
            self._answer(200, json.dumps({"items": [self._about(f, root / f) for f in chosen]}).encode())
        elif not (root / item).is_file():
            self._answer(404)
        else:
            about, content = self._about(item, root / item), (root / item).read_bytes()
            start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            stop = int(end) + 1 if end else len(content)
            part = content[int(start) : stop] if start else content[-int(end) :]
            headers = {"x-goog-generation": about["generation"]}
            headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
            self._answer(206 if "Range" in self.headers else 200, part, **headers)

    def do_POST(self):
        _, name, item, query = self._place()
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.bucket.root / name / item
        if self.bucket.uploads >= self.bucket.capacity:
            self._answer(403, b"quota exceeded")
        elif query.get("ifGenerationMatch") == "0" and path.exists():
            self._answer(412)
        else:
            self.bucket.uploads += 1
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self._answer(200, json.dumps(self._about(item, path)).encode())

    def do_DELETE(self):
        _, name, item, _ = self._place()
        (self.bucket.root / name / item).unlink(missing_ok=True)
        self._answer(204)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def open_bucket(root: Path):
    """Serves gs:// from `root`, to Orbax, TensorStore and `epath` in this process."""
    tensorflow()  # and then clu, which imports it as well
    import clu.metric_writers

    bucket = Bucket(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"bucket": bucket}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{server.server_port}",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    }
    writer = clu.metric_writers.SummaryWriter
    with (
        mock.patch.dict("os.environ", environment),
        mock.patch.dict(gpath._PREFIX_TO_BACKEND, {"gs": bucket}),
        mock.patch.object(gpath, "_is_tf_installed", lambda: False),  # whose file system knows one address only
        mock.patch.object(clu.metric_writers, "SummaryWriter", lambda path: writer(bucket.local(path))),
        mock.patch.object(gcs_utils, "get_bucket", lambda name: types.SimpleNamespace()),
    ):
        yield bucket
    server.shutdown()
