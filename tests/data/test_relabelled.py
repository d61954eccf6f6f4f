"""ImageNet's other labels (ReaL) and other images (V2), as TFDS's own builders prepare them."""

import io
import json
import tarfile

import jax.numpy as jnp
import numpy as np
import pytest
from data_fixtures import add_to_tar, example_jpeg
from PIL import Image
from small_network import OPTIONS, PREPROCESSING, random_variables

import eca_jax
from eca_jax.commands.main import main
from eca_jax.data import eval_batches, load_source
from eca_jax.models import Preprocessing
from eca_jax.tasks.accuracy import Accuracy, label_rank, nearest_label
from eca_jax.tasks.classification import for_model
from eca_jax.weights.card import Card

SETTINGS = dict(batch_size=4, image_size=28, resize_size=32)
REAL = [[3], [], [7, 1, 999], [0], [5, 6], [2]]


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def tfds_dir(request, tmp_path_factory):
    """Both, of six images each, without TFDS's downloads."""
    from eca_jax.data.runtime import tensorflow

    tensorflow()
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("relabelled")
    (root / "manual").mkdir()
    with tarfile.open(root / "manual" / "ILSVRC2012_img_val.tar", "w") as tar:
        for number in range(len(REAL)):
            add_to_tar(tar, f"ILSVRC2012_val_{number + 1:08d}.JPEG", example_jpeg(number))
    for number in range(6):
        (root / "v2" / str(number)).mkdir(parents=True)
        (root / "v2" / str(number) / "a.jpeg").write_bytes(example_jpeg(100 + number))
    tfds.disable_progress_bar()
    names = [f"ILSVRC2012_val_{number + 1:08d}.JPEG" for number in range(len(REAL))]
    options = dict(data_dir=str(root / "tfds"), try_gcs=False, file_format=request.param)
    real = tfds.builder("imagenet2012_real", **options)
    second = tfds.builder("imagenet_v2/matched-frequency", **options)
    manual = tfds.download.DownloadConfig(manual_dir=str(root / "manual"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(real), "_get_real_labels", lambda *_: dict(zip(names, REAL, strict=True)))
        patch.setattr(
            type(second), "_split_generators", lambda self, _: {"test": self._generate_examples(str(root / "v2"))}
        )
        for builder in (real, second):
            builder.download_and_prepare(download_config=manual)
    return root / "tfds"


def by_image(batches):
    """Pixels -> label, of the rows that count."""
    found = {}
    for batch in batches:
        for image, label, mask in zip(batch["image"], batch["label"], batch["mask"], strict=True):
            if mask:
                found[image.tobytes()] = label
    return found


def test_imagenet_v2_has_its_images_and_labels(tfds_dir):
    source = load_source("imagenet_v2", tfds_dir, splits=("validation",))
    assert (source.num_classes, source.num_examples("validation")) == (1000, 6)
    found = by_image(eval_batches(source, **SETTINGS))
    assert sorted(found.values()) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(FileNotFoundError, match="has no train split"):
        load_source("imagenet_v2", tfds_dir)


def test_real_labels_are_all_right_and_an_image_without_any_does_not_count(tfds_dir):
    source = load_source("imagenet2012_real", tfds_dir, splits=("validation",))
    found = by_image(eval_batches(source, **SETTINGS))
    assert sorted(sorted(label[label >= 0].tolist()) for label in found.values()) == sorted(map(sorted, REAL))
    batches = [for_model(batch, None) for batch in eval_batches(source, **SETTINGS)]
    assert [batch["label"].shape for batch in batches] == [(4, 64)] * 2
    assert sum(batch["mask"].sum() for batch in batches) == len(REAL) - 1
    turned = [for_model(batch, np.arange(1000, dtype=np.int32)[::-1]) for batch in eval_batches(source, **SETTINGS)]
    for batch, other in zip(batches, turned, strict=True):
        counted = batch["label"] >= 0
        np.testing.assert_array_equal(other["label"][counted], 999 - batch["label"][counted])
        assert (other["label"][~counted] == -1).all()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of a small network that prefers eight classes of the thousand."""
    path, random = tmp_path_factory.mktemp("weights") / "weights", np.random.default_rng(0)
    model = eca_jax.create_model("eca_resnet18", **OPTIONS)
    variables = random_variables(model)
    classes = np.where(np.arange(1000) < 8, 0, -100).astype(np.float32)
    variables["params"]["fc"] = {"kernel": random.normal(size=(128, 1000)).astype(np.float32), "bias": classes}
    eca_jax.save(path, Card("eca_resnet18", OPTIONS, Preprocessing(**PREPROCESSING)), variables)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "first", "labels"),
    [("imagenet2012_real", 0, REAL), ("imagenet_v2/matched-frequency", 100, [[label] for label in range(6)])],
)
def test_evaluate_judges_by_either(data, first, labels, tfds_dir, weights, capsys):
    assert main(["evaluate", f"--weights={weights}", f"--data={data}", f"--data_dir={tfds_dir}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    predictor = eca_jax.Predictor.load(weights)
    pictures = [Image.open(io.BytesIO(example_jpeg(first + number))) for number in range(len(labels))]
    judged = [(np.argsort(-row), right) for row, right in zip(predictor(pictures), labels, strict=True) if right]
    assert found["count"] == len(judged)
    for key, ahead in (("top1", 1), ("top5", 5)):
        expected = np.mean([bool(set(order[:ahead].tolist()) & set(right)) for order, right in judged])
        assert found[key] == pytest.approx(expected)
    assert found["top5"] > 0


def test_the_likeliest_of_the_right_labels_is_judged():
    logits = jnp.asarray([[0.1, 0.4, 0.3, 0.2]] * 4)
    labels = jnp.asarray([[2, -1, -1], [0, 1, -1], [3, 2, 0], [-1, -1, -1]])
    best = nearest_label(logits, labels)
    assert best.tolist() == [2, 1, 2, 0]
    ranks = label_rank(logits, best)
    meter = Accuracy()
    meter.add({"loss": np.zeros(4), "rank": np.asarray(ranks), "mask": np.array([1, 1, 1, 0])})
    assert meter.result() == {"loss": 0.0, "top1": 1 / 3, "top5": 1.0, "count": 3}
    np.testing.assert_array_equal(nearest_label(logits, jnp.asarray([0, 1, 2, 3])), [0, 1, 2, 3])


def test_a_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path):
    for name, words in (("imagenet2012_real", "ILSVRC2012_img_val.tar"), ("imagenet_v2/topimages", "topimages")):
        with pytest.raises(FileNotFoundError, match="is not prepared in") as error:
            load_source(name, tmp_path, splits=("validation",))
        assert words in str(error.value) and "\n" not in str(error.value)
