"""The application in this process: what it answers, and that it is what `Predictor` says."""

import asyncio
import base64
import io
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import ExifTags, Image
from servers import LIMITS, encoded, ready, serving

import eca_jax
from eca_jax.data.preprocess import eval_image
from eca_jax.inference.ranking import softmax
from eca_jax.serving.limits import Limits
from eca_jax.serving.models import Source
from eca_jax.weights import load, store

RAW = [("content-type", "application/octet-stream")]
JSON = [("content-type", "application/json")]
FORM = [("content-type", "multipart/form-data; boundary=XX")]


def as_json(**fields):
    return json.dumps(fields).encode()


def as_form(images, **fields):
    parts = [f'--XX\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    parts += [
        b'--XX\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + image + b"\r\n"
        for image in images
    ]
    return b"".join(parts) + b"--XX--\r\n"


@pytest.fixture(scope="module")
def predictor(weights):
    return eca_jax.Predictor.load(weights, batch_sizes=(1,), outputs=("logits", "features"))


def test_one_image_in_every_form_has_the_predictors_answer_to_the_last_bit(server, predictor, image):
    (expected,) = predictor.top([image], k=3)
    features = predictor.features([image])[0]
    base64_image = base64.b64encode(image).decode()
    for body, headers, query in (
        (image, RAW, b"top=3&features=true"),
        (image, [("content-type", "image/png")], b"top=3&features=1&model=eca_resnet18"),
        (as_json(images=[base64_image], top=3, features=True), JSON, b""),
        (as_form([image], top=3, features="true"), FORM, b""),
        ([image[:100], image[100:]], RAW, b"top=3&features=true"),
    ):
        answer = server.call("POST", "/v1/predict", body, headers, query)
        assert answer.status == 200, answer.body
        content = answer.json()
        assert (content["model"], content["version"]) == ("eca_resnet18", "1")
        (prediction,) = content["predictions"]
        assert [(c["class"], c["probability"], c["name"]) for c in prediction["classes"]] == [
            (c.index, c.probability, c.name) for c in expected
        ]
        np.testing.assert_array_equal(np.array(prediction["features"], np.float32), features)


def test_pictures_of_every_mode_are_prepared_as_the_predictor_does(server, predictor):
    """A phone's JPEG on its side, CMYK, a palette with transparency, 16-bit greyscale, an animation."""
    noise = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    image, exif = Image.fromarray(noise), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for picture, kind, options in (
        (image, "JPEG", {"exif": exif}),
        (image.convert("CMYK"), "JPEG", {}),
        (image.convert("P"), "PNG", {"transparency": bytes(range(256))}),
        (Image.fromarray(noise[..., 0].astype(np.uint16) << 8), "PNG", {}),
        (image, "GIF", {"save_all": True, "append_images": [image.rotate(90)]}),
        (image, "AVIF", {}),
    ):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        (expected,) = predictor.top([file.getvalue()])
        (prediction,) = server.call("POST", "/v1/predict", file.getvalue(), RAW).json()["predictions"]
        assert [c["probability"] for c in prediction["classes"]] == [c.probability for c in expected]


def test_many_images_are_answered_in_their_order(server, weights, monkeypatch):
    """Six images with batches of 1 and 4: a batch of 4, then one of 2 padded to 4, as the predictor does."""
    monkeypatch.setattr(server.service.models.get().programs["logits"], "seconds", {1: 1.0, 4: 1.0})
    images = [encoded(seed=seed) for seed in range(6)]
    predictor = eca_jax.Predictor.load(weights, batch_sizes=(1, 4))
    expected = predictor.top(images, k=5)
    answer = server.call("POST", "/v1/predict", as_form(images), FORM)
    found = [[(c["class"], c["probability"]) for c in p["classes"]] for p in answer.json()["predictions"]]
    assert found == [[(c.index, c.probability) for c in classes] for classes in expected]


def test_health_readiness_models_metrics_and_the_page(server, image):
    server.call("POST", "/v1/predict", image, RAW)
    assert server.call("GET", "/healthz").json() == {"status": "ok"}
    assert server.call("GET", "/readyz").json() == {"status": "ready"}
    (model,) = server.call("GET", "/v1/models").json()["models"]
    assert (model["num_classes"], model["image_size"], model["returns"]) == (4, 32, ["logits", "features"])
    metrics = server.call("GET", "/metrics").body.decode()
    for line in (
        'eca_requests_total{endpoint="predict",status="200"}',
        'eca_request_seconds_bucket{endpoint="predict",le="0.1"}',
        "eca_batch_images_count",
        "eca_queue_images 0.0",
        "eca_accepted_images 0.0",
        "eca_device_busy_seconds_total",
    ):
        assert line in metrics
    page = server.call("GET", "/")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    assert b"http" not in page.body.replace(b"http-equiv", b"")  # nothing comes from elsewhere
    document = server.call("GET", "/openapi.json").json()
    assert {"/v1/predict", "/v1/models", "/healthz", "/readyz", "/metrics"} <= set(document["paths"])


def test_several_models_by_name(weights, image):
    first, second = Source(str(weights), "first"), Source(str(weights), "second")
    service, running = serving(first, second, batch_sizes=(1,), outputs=("logits",))
    with running:
        ready(service)
        assert running.call("POST", "/v1/predict", image, RAW).json()["model"] == "first"
        assert running.call("POST", "/v1/predict", image, RAW, b"model=second").json()["model"] == "second"
        answer = running.call("POST", "/v1/predict", image, RAW, b"model=third")
        assert (answer.status, answer.json()) == (404, {"error": "there is no model 'third'; there is first, second"})
        answer = running.call("POST", "/v1/predict", image, RAW, b"features=true")
        assert (answer.status, answer.json()) == (
            404,
            {"error": "first is served without features; it returns logits"},
        )


def test_before_the_models_are_compiled_and_while_draining_nothing_is_ready(weights, image):
    service, running = serving(Source(str(weights)), batch_sizes=(1,), outputs=("logits",))
    # Its lifespan has not begun, so that nothing is loaded.
    refused = asyncio.run(running.request("POST", "/v1/predict", image, RAW))
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert asyncio.run(running.request("GET", "/readyz")).json() == {"error": "the models are being compiled"}
    with running:
        ready(service)
        service.draining = True
        assert running.call("GET", "/readyz").status == 503
        done = running.call("POST", "/v1/predict", image, RAW)
        assert (done.status, done.headers["connection"]) == (200, "close")


def test_a_source_that_cannot_be_read_is_told(tmp_path):
    service, running = serving(Source(str(tmp_path / "absent")))
    with running:
        deadline = time.monotonic() + 30
        while service.failure is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert isinstance(service.failure, FileNotFoundError)
        assert running.call("GET", "/readyz").status == 503


class Stuck:
    """Takes the place of a compiled program and computes until it is let go."""

    def __init__(self, program):
        self.seconds, self.width, self.gate, self._program = program.seconds, program.width, threading.Event(), program
        self.entered = threading.Event()

    def __call__(self, rows):
        self.entered.set()
        assert self.gate.wait(30)
        return self._program(rows)


@pytest.fixture
def stuck(weights):
    """A server of 0.4 s and 4 places whose device does not come back before `gate` is set."""
    limits = Limits(**{**vars(LIMITS), "seconds": 0.4, "waiting_images": 4, "requests": 6})
    service, running = serving(Source(str(weights)), limits=limits, batch_sizes=(1,), outputs=("logits",))
    with running:
        ready(service)
        programs = service.models.get().programs
        programs["logits"] = running.device = Stuck(programs["logits"])
        running.service = service
        yield running
        running.device.gate.set()


def send(running, count, *arguments):
    return [
        asyncio.run_coroutine_threadsafe(running.request("POST", "/v1/predict", *arguments), running.loop)
        for _ in range(count)
    ]


def test_a_full_queue_and_a_late_answer_are_503(stuck, image):
    results = [future.result(30) for future in send(stuck, 5, image, RAW)]
    assert [result.status for result in results] == [503] * 5
    assert {result.headers["retry-after"] for result in results} == {"1"}
    reasons = sorted(result.json()["error"] for result in results)
    assert reasons == ["4 images wait already, of at most 4", *["there was no answer within 0.4 s"] * 4]
    assert stuck.service.batcher.places_taken == 0 and stuck.service.batcher.waiting == 0


def test_too_many_requests_in_hand_are_503_and_health_still_answers(stuck, image):
    async def never():
        await asyncio.sleep(30)

    slow = send(stuck, 6, [image[:10], never], RAW)
    time.sleep(0.1)
    assert stuck.call("POST", "/v1/predict", image, RAW).json() == {"error": "6 requests are in hand, of at most 6"}
    assert stuck.call("GET", "/healthz").status == 200
    answers = [future.result(30) for future in slow]
    assert {answer.status for answer in answers} == {408}
    assert answers[0].json() == {"error": "the body did not arrive within 0.4 s"}


def test_a_client_that_goes_leaves_the_queue(stuck, image):
    (computing,) = send(stuck, 1, image, RAW)
    assert stuck.device.entered.wait(10)
    gone = [image, None]
    (left,) = send(stuck, 1, gone, RAW)
    left.result(10)
    computing.result(10)
    assert stuck.service.batcher.places_taken == 0 and stuck.service.batcher.waiting == 0


def test_a_client_that_stops_reading_is_let_go(stuck):
    async def never(message):
        await asyncio.sleep(30)

    started = time.monotonic()
    future = asyncio.run_coroutine_threadsafe(stuck.request("GET", "/", sending=never), stuck.loop)
    with pytest.raises(TimeoutError):
        future.result(10)
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_an_exported_file_is_served_without_flax(weights, tmp_path, image):
    """In a process that cannot import Flax; the answer is the exported model's own."""
    from eca_jax.inference.export import export
    from eca_jax.weights.load import read_weights

    path = tmp_path / "model.npz"
    export(path, read_weights(weights), platforms=("cpu",))
    (tmp_path / "image.png").write_bytes(image)
    code = f"""
import sys
sys.modules["flax"] = None
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from servers import ready, serving
from eca_jax.serving.models import Models, Source
service, running = serving(Source({str(path)!r}), batch_sizes=(1, 4), outputs=("logits",))
with running:
    ready(service)
    image = open({str(tmp_path / "image.png")!r}, "rb").read()
    answer = running.call("POST", "/v1/predict", image, [("content-type", "image/png")])
    print(answer.body.decode())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (prediction,) = json.loads(done.stdout)["predictions"]
    pixels = eval_image(image, 32, 40, "bicubic")
    expected = softmax(eca_jax.load_exported(path)(pixels[None])[0])
    assert {c["class"]: c["probability"] for c in prediction["classes"]} == dict(enumerate(expected.tolist()))
    assert prediction["classes"][0]["name"] in ("cat", "dog", "fox", "hen")


def test_a_workdirs_better_checkpoint_is_taken_and_a_damaged_one_is_not(weights, image, tmp_path, caplog):
    """Step 1, then a worse 2, a better 3, and a better 4 whose arrays are lost."""
    workdir = tmp_path / "run"
    found = load.read_weights(weights)
    workdir.mkdir()
    store.write_json(store.absolute(workdir) / store.CONFIG_FILE, found.card.to_json())
    checkpoints = store.CheckpointStore(workdir)

    def save(step, top1):
        scaled = jax.tree.map(lambda leaf: leaf * step, found.variables)
        checkpoints.save(step, {"variables": scaled}, {"epoch": step})
        checkpoints.wait()
        checkpoints.record(step, {"validation": {"top1": top1}})

    def predict():
        return running.call("POST", "/v1/predict", image, RAW).json()

    save(1, 0.5)
    service, running = serving(Source(str(workdir)), batch_sizes=(1,), outputs=("logits",), reload_seconds=0.05)
    with running:
        ready(service)
        first = predict()
        save(2, 0.4)
        save(3, 0.6)
        third = eventually(predict, lambda answer: answer["version"] == "3")
        assert first["version"] == "1" and third["predictions"] != first["predictions"]
        damaged = tmp_path / "4"
        shutil.copytree(workdir / store.CHECKPOINTS / "3", damaged)
        store.write_json(store.absolute(damaged / store.EVALUATION_FILE), {"validation": {"top1": 0.7}})
        shutil.rmtree(damaged / "variables" / "d")
        damaged.rename(workdir / store.CHECKPOINTS / "4")
        eventually(lambda: caplog.text, lambda text: "no new weights: " in text)
        assert predict() == third
    checkpoints.close()


def eventually(ask, is_so):
    deadline = time.monotonic() + 60
    while not is_so(found := ask()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.mark.slow
def test_grad_cam_says_where_the_likeliest_class_is_seen(weights):
    """The map is `grad_cam`'s of the pixels that the network saw."""
    import jax.numpy as jnp

    from eca_jax.inference.grad_cam import grad_cam
    from eca_jax.models import Preprocessing
    from eca_jax.models.inputs import normalize

    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.open(io.BytesIO(encoded((80, 60)))).save(file, "JPEG", exif=exif)
    service, running = serving(Source(str(weights)), batch_sizes=(1,), outputs=("logits",), grad_cam=True)
    with running:
        ready(service)
        images = [file.getvalue(), encoded((60, 60))]
        found = running.call("POST", "/v1/predict", as_form(images, grad_cam="true"), FORM).json()["predictions"]
        plain = running.call("POST", "/v1/predict", as_form(images), FORM).json()["predictions"]
    model, variables = eca_jax.load(weights)
    how = Preprocessing(image_size=32, crop_pct=0.8, interpolation="bicubic", mean=(0.4,) * 3, std=(0.3,) * 3)
    for image, prediction, other in zip(images, found, plain, strict=True):
        seen = prediction.pop("grad_cam")
        assert prediction == other and seen["class"] == prediction["classes"][0]["class"]
        pixels = eval_image(image, 32, 40, "bicubic", upright=True)[None]
        images_in = normalize(jnp.asarray(pixels), how.mean, how.std, jnp.float32)
        expected = grad_cam(model, variables, images_in, jnp.array([seen["class"]]))[0]
        np.testing.assert_allclose(np.array(seen["map"]), expected, atol=1e-5)


def test_the_box_that_is_seen_is_in_pixels_of_the_upright_image(server):
    served, exif, file = server.service.models.get(), Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("L", (80, 60)).save(file, "JPEG", exif=exif)
    # 60 x 80 upright, resized to 40 x 53, of which the 32 x 32 from (4, 10) on are taken.
    expected = [4 * 60 / 40, 10 * 80 / 53, 36 * 60 / 40, 42 * 80 / 53]
    np.testing.assert_allclose(served.seen(file.getvalue(), 10_000), expected)
    answer = server.call("POST", "/v1/predict", file.getvalue(), RAW, b"grad_cam=true")
    assert (answer.status, "without grad_cam" in answer.json()["error"]) == (404, True)
