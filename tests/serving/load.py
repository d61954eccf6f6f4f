"""Load on loopback, as a script: python tests/serving/load.py --weights W [--seconds 60] [--clients 32]

Starts `eca-jax serve` on a free port of 127.0.0.1 and prints, as JSON: images a second of so many clients with one
image a request, in turns with those of the predictor's own stream over the same files in this process, which has no
HTTP; p50 and p99 at 50% and at 90% of that load; the server's memory, from when all of these loads have been there
once; what changes, beside the predictor, when some clients send a byte a second and others never read; and what SIGTERM
under load loses. `held` says which promises were kept, and the exit status is 1 if one was not. The clients are one
thread here, on the server's own cores; `client_cpu_share` is what they took of all cores. On a machine with other work
the figures say little, but for `share_by_cpu`, of CPU seconds.
"""

import argparse
import asyncio
import collections
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
from PIL import Image

from eca_jax.inference.predictor import Predictor

PARTS = 4  # in which the clients and the predictor take turns; in the second half, some clients are stalled
LOADS = (0.5, 0.9)  # of the full load's rate, for requests that come whether or not those before are answered
STALLED = 4  # clients of each kind that hold a connection and do nothing useful


def photographs(count):
    """JPEG files of about 500 by 375 pixels."""
    draw = np.random.default_rng(0)
    files = []
    for _ in range(count):
        small = Image.fromarray(draw.integers(0, 256, (30, 40, 3), np.uint8))
        file = io.BytesIO()
        small.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def request(image):
    head = f"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
    return head.encode() + image


class Refused(Exception):
    """The server takes no connections any more."""


class Client:
    """One connection, opened anew where the server closed it. Sockets, not streams: it shares the server's cores."""

    def __init__(self, port):
        self._port, self._socket, self._buffer = port, None, bytearray(1 << 16)

    async def ask(self, content):
        """The status of the answer. Raises OSError where a request that was sent has none."""
        loop = asyncio.get_running_loop()
        if self._socket is None:
            self._socket = socket.socket()
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await loop.sock_connect(self._socket, ("127.0.0.1", self._port))
            except OSError:
                raise Refused from None
        try:
            await loop.sock_sendall(self._socket, content)
            answer = b""
            while not (found := re.search(rb"content-length: (\d+).*?\r\n\r\n", answer, re.S | re.I)) or (
                len(answer) < found.end() + int(found[1])
            ):
                size = await loop.sock_recv_into(self._socket, self._buffer)
                if not size:
                    raise OSError("the connection was closed")
                answer += self._buffer[:size]
        except OSError as error:
            self._close()
            raise OSError(f"no answer: {error}") from None
        if b"connection: close" in answer[: found.end()].lower():
            self._close()
        return int(answer.split(maxsplit=2)[1])

    def _close(self):
        self._socket.close()
        self._socket = None


class Tally:
    """Statuses and latencies of answers."""

    def __init__(self):
        self.statuses, self.latencies, self.lost = collections.Counter(), [], []
        self.seconds = 0.0

    async def ask(self, client, content, since=None):
        started = since or time.perf_counter()
        status = await client.ask(content)
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(time.perf_counter() - started)

    def add(self, other):
        self.statuses += other.statuses
        self.latencies += other.latencies
        self.lost += other.lost
        self.seconds += other.seconds

    def figures(self):
        p50, p99 = np.percentile(self.latencies, (50, 99)) if self.latencies else (float("nan"),) * 2
        return {
            "statuses": dict(self.statuses),
            "images_per_second": round(self.statuses[200] / self.seconds, 1),
            "p50_ms": round(1000 * p50, 1),
            "p99_ms": round(1000 * p99, 1),
        }


async def closed(port, contents, clients, seconds, tally):
    """Each client asks again as soon as it is answered; the time until the last answer counts."""
    started = time.perf_counter()
    end = started + seconds

    async def run():
        client = Client(port)
        while time.perf_counter() < end:
            try:
                await tally.ask(client, random.choice(contents))
            except Refused:
                return
            except OSError as error:
                tally.lost.append(str(error))

    await asyncio.gather(*(run() for _ in range(clients)))
    tally.seconds += time.perf_counter() - started


async def opened(port, contents, rate, seconds, tally):
    """Requests at random times, whether or not the ones before are answered; latency counts from when each was due."""
    pool, tasks, started = [], [], time.perf_counter()
    due, end = started, started + seconds

    async def run(since):
        client = pool.pop() if pool else Client(port)
        await tally.ask(client, random.choice(contents), since)
        pool.append(client)

    while due < end:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(run(due)))
        due += random.expovariate(rate)
    await asyncio.gather(*tasks)
    tally.seconds += time.perf_counter() - started


async def stalled(port, content):
    """Holds connections: some send a byte a second, some ask again and again and never read."""

    async def drips():
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in content:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(1)

    async def deaf():
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    await asyncio.gather(*(one() for one in (drips, deaf) * STALLED), return_exceptions=True)


def megabytes(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) // 1024


def cpu_seconds(pid):
    """Of all threads of a process so far; on a machine with other work it tells more than the clock."""
    with open(f"/proc/{pid}/stat") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def measure(server, port, images, predictor, args):
    contents = [request(image) for image in images]
    warm = Tally()
    await closed(port, contents, args.clients, args.seconds / PARTS, warm)
    for share in LOADS:  # small batches too: each batch size is a program, whose memory comes with its first uses
        await opened(port, contents, share * warm.figures()["images_per_second"], args.seconds / PARTS, Tally())
    stream_rate(predictor, images, 1)
    memory, predicted, parts = [megabytes(server.pid)], [], []
    total, server_cpu, client_cpu, holding = Tally(), 0.0, 0.0, None
    for part in range(PARTS):
        predicted.append(stream_rate(predictor, images, args.seconds / PARTS))
        if part == PARTS // 2:
            holding = asyncio.ensure_future(stalled(port, contents[0]))
        tally, before, own = Tally(), cpu_seconds(server.pid), time.process_time()
        await closed(port, contents, args.clients, args.seconds / PARTS, tally)
        server_cpu, client_cpu = server_cpu + cpu_seconds(server.pid) - before, client_cpu + time.process_time() - own
        parts.append(tally.figures())
        total.add(tally)
        memory.append(megabytes(server.pid))
    holding.cancel()
    closed_figures = total.figures() | {
        "lost": total.lost,
        "server_cpu_seconds_per_image": round(server_cpu / total.statuses[200], 4),
        "client_cpu_share": round(client_cpu / total.seconds / os.cpu_count(), 4),
        "images_per_batch": round(await batch_images(port), 1),
    }
    rate, cpu = (float(mean) for mean in np.mean(predicted, axis=0))
    report = {
        "predictor": {"images_per_second": round(rate, 1), "cpu_seconds_per_image": round(cpu, 4)},
        "closed": closed_figures,
        "share": round(closed_figures["images_per_second"] / rate, 3),
        "share_by_cpu": round(cpu / closed_figures["server_cpu_seconds_per_image"], 3),
        "parts": [
            {"predictor": round(own, 1), "stalled_clients": 2 * STALLED * (index >= PARTS // 2)} | figures
            for index, ((own, _), figures) in enumerate(zip(predicted, parts, strict=True))
        ],
        "memory_MB": memory,
    }
    for share in LOADS:
        tally = Tally()
        await opened(port, contents, share * closed_figures["images_per_second"], args.seconds / 2, tally)
        report[f"at {share:.0%}"] = tally.figures()
        total.add(tally)
        memory.append(megabytes(server.pid))
    tally = Tally()
    asking = asyncio.ensure_future(closed(port, contents, args.clients, 20, tally))
    await asyncio.sleep(2)
    server.send_signal(signal.SIGTERM)
    await asking
    report["SIGTERM"] = {"statuses": dict(tally.statuses), "lost": tally.lost, "exit": server.wait(60)}
    shares = [part["images_per_second"] / part["predictor"] for part in report["parts"]]
    alone, beside = sum(shares[: PARTS // 2]), sum(shares[PARTS // 2 :])
    report["held"] = {
        "at least 0.9 of the predictor's rate": report["share"] >= 0.9,
        "only 200 and 503": set(total.statuses) <= {200, 503} and not total.lost,
        "memory is flat": memory[-1] < 1.1 * max(memory[: len(memory) // 2]),
        "stalled clients hold nobody up": beside > 0.9 * alone,
        "SIGTERM loses nothing": not tally.lost and set(tally.statuses) <= {200, 503} and not report["SIGTERM"]["exit"],
    }
    report["machine"] = {"cpu_cores": os.cpu_count(), "load_average": os.getloadavg()[0]}
    return report


async def batch_images(port):
    """The mean number of images of a batch so far, as the server's metrics have it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    total, count = (float(re.search(rf"^eca_batch_images_{name} (\S+)$", text, re.M)[1]) for name in ("sum", "count"))
    return total / count


def stream_rate(predictor, images, seconds):
    """(images a second, CPU seconds an image) of the predictor's own stream, decoding included."""
    started, count, cpu = time.perf_counter(), 0, time.process_time()

    def files():
        while time.perf_counter() - started < seconds:
            yield from images

    for _ in predictor.stream(files()):
        count += 1
    return count / (time.perf_counter() - started), (time.process_time() - cpu) / count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--batch_sizes", default="1,8,32")
    args = parser.parse_args()
    images = photographs(64)
    predictor = Predictor.load(args.weights, batch_sizes=(int(args.batch_sizes.split(",")[-1]),))
    command = [sys.executable, "-m", "eca_jax", "serve", "--weights", args.weights, "--port", "0", "--no_grad_cam"]
    server = subprocess.Popen([*command, "--batch_sizes", args.batch_sizes], stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            if found := re.search(r"listening on http://127.0.0.1:(\d+)", line):
                port = int(found[1])
            if ": ready in" in line:
                break
        report = asyncio.run(measure(server, port, images, predictor, args))
    finally:
        server.kill()
    print(json.dumps(report, indent=2))
    return 0 if all(report["held"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
