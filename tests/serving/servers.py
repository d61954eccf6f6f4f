"""What the tests of serving start a server with, and send to it."""

import io
import time

import numpy as np
from asgi import Running
from PIL import Image

from eca_jax.serving.app import create_app
from eca_jax.serving.limits import Limits
from eca_jax.serving.models import Models
from eca_jax.serving.service import Service

LIMITS = Limits(body_bytes=1 << 20, pixels=1_000_000, images=8, waiting_images=16, requests=8, seconds=5)


def encoded(size=(60, 50), kind="PNG", seed=0):
    """An image file of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def serving(*sources, limits=LIMITS, batch_sizes=(1, 4), outputs=("logits", "features"), grad_cam=False, **options):
    """(service, application running) of sources; the caller enters it and waits for `ready`."""
    models = Models(sources, batch_sizes=batch_sizes, outputs=outputs, grad_cam=grad_cam)
    service = Service(models, limits, **options)
    return service, Running(create_app(service))


def ready(service):
    deadline = time.monotonic() + 60
    while not service.models.ready:
        if service.failure:
            raise service.failure
        assert time.monotonic() < deadline
        time.sleep(0.01)
