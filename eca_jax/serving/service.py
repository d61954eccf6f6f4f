"""What the endpoints share: the models, the queue, the threads that decode, and the limits."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request

from eca_jax.inference.ranking import softmax
from eca_jax.serving.batching import IN_FLIGHT, Batcher, QueueFull
from eca_jax.serving.limits import Limits, Refused, busy
from eca_jax.serving.metrics import Metrics
from eca_jax.serving.models import Models, Served

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
# Images that a detector has in memory at a time, at the device and ready for it: each has a canvas of megabytes.
PLACED = 2 * IN_FLIGHT


class Service:
    """Images in, results out, within the limits.

    Attributes:
      models, limits, metrics: as they say.
      batcher: the queue before the device.
      draining: the server is about to end.
      failure: what ended the loading of the models.
    """

    def __init__(
        self, models: Models, limits: Limits, *, max_delay: float = 0.005, reload_seconds: float | None = None
    ):
        """
        Args:
          max_delay: seconds that an image waits for company while the device is idle.
          reload_seconds: how often workdirs are looked at for a better checkpoint; None for never.
        """
        self.models, self.limits, self.metrics = models, limits, Metrics()
        self.draining = False
        self.failure: Exception | None = None
        self._max_delay, self._reload_seconds = max_delay, reload_seconds
        self._decoders = ThreadPoolExecutor(os.cpu_count(), "decode")
        self._placed = asyncio.Semaphore(PLACED)
        self.batcher = Batcher(
            max_delay=max_delay, places=limits.waiting_images, on_batch=self.metrics.batch_images.observe
        )
        self.metrics.watch(
            lambda: self.batcher.waiting, lambda: self.batcher.places_taken, lambda: self.batcher.busy_seconds
        )

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        """While inside, the models are loaded, then looked after."""
        care = asyncio.create_task(self._care())
        try:
            yield
        finally:
            care.cancel()
            await asyncio.wait([care])
            await self.batcher.close()
            self._decoders.shutdown(wait=False, cancel_futures=True)

    def check_ready(self) -> None:
        """Raises Refused unless requests are answered, and will be for a while."""
        if self.draining:
            raise busy("the server is about to end")
        self.models.get()

    async def compute(self, served: Served, images: Sequence[bytes], outputs: Sequence[str]) -> dict[str, list[Any]]:
        """By output, one result for each image file.

        Raises Refused: an image that cannot be read, an output that the model does not return, no place in the queue.
        """
        self._check(served, outputs)
        with self._accepted(len(images)):
            rows = await self._decode(served, images)
            return await self._run(served, rows, outputs)

    async def explain(
        self, served: Served, images: Sequence[bytes], outputs: Sequence[str]
    ) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
        """`compute`, and for each image where its likeliest class is seen, as JSON has it.

        Raises Refused: as `compute` does, and where the model is served without Grad-CAM.
        """
        self._check(served, outputs)
        if (explanation := served.explanation) is None:
            raise Refused(404, f"{served.name} is served without grad_cam; an exported model never has it")
        with self._accepted(len(images)):
            rows = await self._decode(served, images)
            boxes = [await self._in_thread(served.seen, image, self.limits.pixels) for image in images]
            found = await self._run(served, rows, outputs)
            classes = [int(softmax(logits).argmax()) for logits in found["logits"]]
            maps = await self.batcher.run(explanation, list(zip(rows, classes, strict=True)))
        return found, [
            {"class": index, "box": box, "map": seen.tolist()}
            for index, box, seen in zip(classes, boxes, maps, strict=True)
        ]

    async def compute_pixels(
        self, served: Served, rows: Sequence[np.ndarray], outputs: Sequence[str]
    ) -> dict[str, list[Any]]:
        """As `compute`, for images that are prepared already: uint8 [S, S, C] each."""
        self._check(served, outputs)
        with self._accepted(len(rows)):
            return await self._run(served, rows, outputs)

    async def detect(
        self, served: Served, images: Sequence[bytes], threshold: float, masks: bool
    ) -> list[dict[str, Any]]:
        """The objects of each image file; see `Detection.objects`.

        Raises Refused: no detector, an image that cannot be read, no place in the queue.
        """
        if (detection := served.detection) is None:
            raise Refused(404, f"{served.name} is no detector: /v1/predict says what is in an image")

        async def one(image: bytes) -> dict[str, Any]:
            async with self._placed:
                placed = await self._in_thread(detection.prepare, image, self.limits.pixels)
                (found,) = await self.batcher.run(detection, [placed])
                return await self._in_thread(detection.objects, found, placed, threshold, masks)

        with self._accepted(len(images)):
            return await self._each([one(image) for image in images])

    async def answer(self, request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
        """What `work` returns, within the time limit; it is cancelled when the client goes. Call it after the body.

        Raises Refused: no time left, or the client has gone.
        """
        working, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait([working, gone], timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if gone.done():
                raise Refused(400, "the client has gone")
            raise busy(f"there was no answer within {self.limits.seconds:g} s")
        finally:
            working.cancel()
            gone.cancel()
            await asyncio.wait([working, gone])  # its places are free when this returns

    def _check(self, served: Served, outputs: Sequence[str]) -> None:
        for output in outputs:
            if served.detection:
                raise Refused(404, f"{served.name} is a detector: /v1/detect says what is where in an image")
            if output not in served.programs:
                raise Refused(404, f"{served.name} is served without {output}; it returns {', '.join(served.programs)}")

    @contextlib.contextmanager
    def _accepted(self, images: int) -> Any:
        try:
            with self.batcher.accept(images):
                yield
        except QueueFull as error:
            raise busy(str(error)) from None

    async def _decode(self, served: Served, images: Sequence[bytes]) -> list[np.ndarray]:
        return await self._each([self._in_thread(served.prepare, image, self.limits.pixels) for image in images])

    async def _in_thread(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)

    async def _each(self, work: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
        """What is computed for each image at once; the first refusal ends all, and names its image."""
        tasks = [asyncio.ensure_future(one) for one in work]
        try:
            return [await task for task in tasks]
        except Refused as refused:
            if len(tasks) == 1:
                raise
            position = next(i for i, task in enumerate(tasks) if task.done() and task.exception() is refused)
            raise Refused(refused.status, f"image {position}: {refused.reason}") from None
        finally:
            for task in tasks:
                task.cancel()
            if unfinished := [task for task in tasks if not task.done()]:
                await asyncio.wait(unfinished)

    async def _run(self, served: Served, rows: Sequence[np.ndarray], outputs: Sequence[str]) -> dict[str, list[Any]]:
        found = await asyncio.gather(*(self.batcher.run(served.programs[output], rows) for output in outputs))
        return dict(zip(outputs, found, strict=True))

    async def _care(self) -> None:
        try:
            await asyncio.to_thread(self.models.load)
        except Exception as error:  # told by `failure`: whoever runs the server ends it
            self.failure = error
            return
        while self._reload_seconds is not None:
            await asyncio.sleep(self._reload_seconds)
            try:
                await asyncio.to_thread(self.models.reload)
            except Exception as error:  # a checkpoint half-written or removed meanwhile: the next look may succeed
                log.warning("no new weights: %s", error)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
