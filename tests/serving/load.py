"""Load on loopback, as a script: python tests/serving/load.py --weights W [--seconds 60] [--clients 32]

Starts `eca-jax serve` on a free port of 127.0.0.1 and measures, in this order: the predictor's own stream in this
process; so many clients, each with one image a request, beside some that send a byte a second and some that do not
read; p50 and p99 at 50% and 90% of that throughput; the server's memory; and SIGTERM under load. On a machine with
other work the figures say little.
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
import subprocess
import sys
import time

import numpy as np
from PIL import Image

from eca_jax.inference.predictor import Predictor

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
    """One connection, opened anew where the server closed it."""

    def __init__(self, port):
        self._port, self._streams = port, None

    async def ask(self, content):
        """The status of the answer. Raises OSError where a request that was sent has none."""
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                raise Refused from None
        reader, writer = self._streams
        try:
            writer.write(content)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
        except (OSError, asyncio.IncompleteReadError) as error:
            self._streams = None
            raise OSError(f"no answer: {error}") from None
        if b"connection: close" in head:
            writer.close()
            self._streams = None
        return int(head.split()[1])


class Tally:
    """Statuses and latencies of answers."""

    def __init__(self):
        self.statuses, self.latencies, self.lost = collections.Counter(), [], []

    async def ask(self, client, content, since=None):
        started = since or time.perf_counter()
        status = await client.ask(content)
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(time.perf_counter() - started)

    def figures(self, seconds):
        p50, p99 = np.percentile(self.latencies, (50, 99)) if self.latencies else (float("nan"),) * 2
        return {
            "statuses": dict(self.statuses),
            "images_per_second": round(self.statuses[200] / seconds, 1),
            "p50_ms": round(1000 * p50, 1),
            "p99_ms": round(1000 * p99, 1),
        }


async def closed(port, contents, clients, seconds, tally):
    """Each client asks again as soon as it is answered."""
    end = time.perf_counter() + seconds

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


async def opened(port, contents, rate, seconds, tally):
    """Requests at random times, whether or not the ones before are answered; latency counts from when each was due."""
    pool, tasks, due = [], [], time.perf_counter()
    end = due + seconds

    async def run(since):
        client = pool.pop() if pool else Client(port)
        await tally.ask(client, random.choice(contents), since)
        pool.append(client)

    while due < end:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(run(due)))
        due += random.expovariate(rate)
    await asyncio.gather(*tasks)


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


async def measure(server, port, images, args):
    contents = [request(image) for image in images]
    warm = Tally()
    await closed(port, contents, args.clients, 3, warm)
    memory = [megabytes(server.pid)]
    holding = asyncio.ensure_future(stalled(port, contents[0]))
    tally, parts, cpu = Tally(), 4, cpu_seconds(server.pid)
    for _ in range(parts):
        await closed(port, contents, args.clients, args.seconds / parts, tally)
        memory.append(megabytes(server.pid))
    cpu_per_image = (cpu_seconds(server.pid) - cpu) / max(1, tally.statuses[200])
    holding.cancel()
    figures = {"lost": len(tally.lost), "cpu_seconds_per_image": round(cpu_per_image, 4)}
    report = {"closed": tally.figures(args.seconds) | figures, "memory_MB": memory}
    for share in (0.5, 0.9):
        tally, seconds = Tally(), args.seconds / 3
        await opened(port, contents, share * report["closed"]["images_per_second"], seconds, tally)
        report[f"at {share:.0%}"] = tally.figures(seconds)
    tally = Tally()
    asking = asyncio.ensure_future(closed(port, contents, args.clients, 20, tally))
    await asyncio.sleep(2)
    server.send_signal(signal.SIGTERM)
    await asking
    report["SIGTERM"] = {"statuses": dict(tally.statuses), "lost": tally.lost, "exit": server.wait(60)}
    return report


def stream_rate(predictor, images, seconds):
    """(images a second, CPU seconds an image) of the predictor's own stream, decoding included."""
    list(predictor.stream(images[: predictor.batch_sizes[-1]]))
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
    command = [sys.executable, "-m", "eca_jax", "serve", "--weights", args.weights, "--port", "0"]
    server = subprocess.Popen([*command, "--batch_sizes", args.batch_sizes], stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            if found := re.search(r"listening on http://127.0.0.1:(\d+)", line):
                port = int(found[1])
            if ": ready in" in line:
                break
        rates = [stream_rate(predictor, images, args.seconds / 4)]
        report = asyncio.run(measure(server, port, images, args))
        rates.append(stream_rate(predictor, images, args.seconds / 4))
    finally:
        server.kill()
    speeds, cpu = zip(*rates, strict=True)
    report["predictor"] = {
        "images_per_second": [round(speed, 1) for speed in speeds],
        "cpu_seconds_per_image": [round(seconds, 4) for seconds in cpu],
    }
    report["share"] = round(report["closed"]["images_per_second"] / np.mean(speeds), 3)
    report["share_by_cpu"] = round(np.mean(cpu) / report["closed"]["cpu_seconds_per_image"], 3)
    report["cpu_cores"], report["load_average"] = os.cpu_count(), os.getloadavg()[0]
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
