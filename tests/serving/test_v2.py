"""The v2 protocol by hand: JSON and binary tensors, the predictor's numbers to the last bit, and malformed tensors."""

import base64
import json
import struct

import numpy as np
import pytest
from servers import encoded

import eca_jax
from eca_jax.data.preprocess import eval_image

JSON = [("content-type", "application/json")]
INFER = "/v2/models/eca_resnet18/infer"


def tensor(name="images", datatype="BYTES", shape=(1,), **fields):
    return {"name": name, "datatype": datatype, "shape": list(shape), **fields}


def body(*inputs, **fields):
    return json.dumps({"inputs": list(inputs), **fields}).encode()


def binary(head, *buffers):
    text = json.dumps(head).encode()
    return b"".join([text, *buffers]), [*JSON, ("inference-header-content-length", str(len(text)))]


@pytest.fixture(scope="module")
def images():
    return [encoded(seed=seed) for seed in range(4)]


@pytest.fixture(scope="module")
def expected(weights, images):
    predictor = eca_jax.Predictor.load(weights, batch_sizes=(4,), outputs=("logits", "features"))
    return {
        "logits": predictor(images),
        "probabilities": predictor.probabilities(images),
        "features": predictor.features(images),
    }


def test_metadata_and_health(server):
    assert server.call("GET", "/v2").json()["extensions"] == ["binary_tensor_data"]
    assert server.call("GET", "/v2/health/live").json() == {"live": True}
    assert server.call("GET", "/v2/health/ready").json() == {"ready": True}
    for path in ("/v2/models/eca_resnet18", "/v2/models/eca_resnet18/versions/1"):
        assert server.call("GET", f"{path}/ready").json() == {"name": "eca_resnet18", "ready": True}
        model = server.call("GET", path).json()
        assert [(t["name"], t["shape"]) for t in model["inputs"]] == [("images", [-1]), ("pixels", [-1, 32, 32, 3])]
        assert [(t["name"], t["shape"][1]) for t in model["outputs"]] == [
            *(("logits", 4), ("probabilities", 4), ("features", 128))
        ]
    for path in ("/v2/models/absent", "/v2/models/eca_resnet18/versions/2", "/v2/models/absent/ready"):
        assert server.call("GET", path).status == 404


def test_files_and_pixels_in_json_and_in_binary(server, images, expected):
    pixels = np.stack([eval_image(image, 32, 40, "bicubic") for image in images])
    packed = b"".join(struct.pack("<I", len(image)) + image for image in images)
    in_base64 = [base64.b64encode(image).decode() for image in images]
    size = {"parameters": {"binary_data_size": len(packed)}}
    pixel_size = {"parameters": {"binary_data_size": pixels.size}}
    for sent, headers in (
        (body(tensor(shape=[4], data=in_base64), id="7"), JSON),
        (body(tensor(shape=[4, 1], data=[[text] for text in in_base64]), id="7"), JSON),
        (body(tensor("pixels", "UINT8", pixels.shape, data=pixels.tolist()), id="7"), JSON),
        (body(tensor("pixels", "UINT8", pixels.shape, data=pixels.ravel().tolist()), id="7"), JSON),
        binary({"inputs": [tensor(shape=[4], **size)], "id": "7"}, packed),
        binary({"inputs": [tensor("pixels", "UINT8", pixels.shape, **pixel_size)], "id": "7"}, pixels.tobytes()),
    ):
        answer = server.call("POST", INFER, sent, headers)
        assert answer.status == 200, answer.body
        content = answer.json()
        assert (content["model_name"], content["model_version"], content["id"]) == ("eca_resnet18", "1", "7")
        found = {t["name"]: np.array(t["data"], np.float32).reshape(t["shape"]) for t in content["outputs"]}
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])


def test_outputs_are_chosen_and_come_in_binary(server, images, expected):
    outputs = [{"name": "features", "parameters": {"binary_data": True}}, {"name": "logits"}]
    in_base64 = [base64.b64encode(image).decode() for image in images]
    answer = server.call("POST", INFER, body(tensor(shape=[4], data=in_base64), outputs=outputs), JSON)
    length = int(answer.headers["inference-header-content-length"])
    features, logits = json.loads(answer.body[:length])["outputs"]
    assert features["parameters"] == {"binary_data_size": len(answer.body) - length}
    array = np.frombuffer(answer.body[length:], "<f4").reshape(features["shape"])
    np.testing.assert_array_equal(array, expected["features"])
    np.testing.assert_array_equal(np.array(logits["data"], np.float32).reshape(4, 4), expected["logits"])
    everything = {"binary_data_output": True}
    answer = server.call("POST", INFER, body(tensor(shape=[4], data=in_base64), parameters=everything), JSON)
    assert int(answer.headers["inference-header-content-length"]) < len(answer.body)


ONE = base64.b64encode(encoded()).decode()
GOOD = tensor(data=[ONE])
SIZE = 32 * 32 * 3


@pytest.mark.parametrize(
    "sent",
    [
        *(b"", b"[]", b"{}", body(), body(GOOD, GOOD), body([]), body("images"), body(None)),
        *(body({}), body({"name": "images"}), body(tensor(name=1)), body(tensor(datatype=None)), body(tensor("x"))),
        *(body(tensor(datatype="FP32", data=[1.0])), body(tensor("pixels", "BYTES", data=[ONE]))),
        *(
            body(GOOD | {"shape": shape})
            for shape in (None, 1, [], [2], [-1], [True], [1.5], ["1"], [1, 1, 1], [2**40])
        ),
        *(body(tensor(data=data)) for data in (None, ONE, {}, [], [None], [1], [""], ["%"], ["QUJD"], [[[ONE]]])),
        body(tensor(shape=[9], data=[ONE] * 9)),
        body(tensor(shape=[0], data=[])),
        *(body(tensor("pixels", "UINT8", shape, data=[0] * SIZE)) for shape in ([1], [1, 32, 32], [1, 31, 32, 3], [0])),
        *(
            body(tensor("pixels", "UINT8", [1, 32, 32, 3], data=data))
            for data in (None, [], [0], "a", {}, [[0], [0, 0]])
        ),
        *(
            body(tensor("pixels", "UINT8", [1, 32, 32, 3], data=[v] * SIZE))
            for v in (-1, 256, 0.5, "0", None, True, 2**70)
        ),
        body(tensor("pixels", "UINT8", [9, 32, 32, 3], data=[0] * SIZE * 9)),
        body(tensor("pixels", "UINT8", [0, 32, 32, 3], data=[])),
        b'{"inputs":[{"name":"pixels","datatype":"UINT8","shape":[1,32,32,3],"data":'
        + b"[" * 900
        + b"]" * 900
        + b"}]}",
        *(body(GOOD, outputs=outputs) for outputs in ("logits", [1], [{}], [{"name": 1}], {"a": 1})),
        body(GOOD, outputs=[{"name": "logits"}] * 2),
        body(GOOD, outputs=[{"name": "logits", "parameters": {"binary_data": 1}}]),
        *(body(GOOD, id=value) for value in (1, [], {}, True)),
        *(body(GOOD, parameters=value) for value in (1, [], None, {"binary_data_output": "yes"})),
        *(body(tensor(parameters={"binary_data_size": size})) for size in (1, -1, 0.5, "1", True, 10**30)),
    ],
)
def test_malformed_tensors_are_refused(server, sent):
    answer = server.call("POST", INFER, sent, JSON)
    assert answer.status in (400, 413), answer.body
    assert answer.json()["error"]


def test_an_output_that_is_not_there_is_not_found(server):
    answer = server.call("POST", INFER, body(GOOD, outputs=[{"name": "x"}]), JSON)
    assert (answer.status, answer.json()) == (404, {"error": "eca_resnet18 has no output 'x'"})


@pytest.mark.parametrize("length", ["", "-1", "+5", "a", "1e2", "999999999", "9" * 40, "0", "3"])
def test_a_wrong_length_of_the_json_is_refused(server, length):
    headers = [*JSON, ("inference-header-content-length", length)]
    assert server.call("POST", INFER, body(GOOD), headers).status == 400


@pytest.mark.parametrize(
    "packed", [b"", b"\1", b"\0\0\0\0", b"\5\0\0\0abc", b"\xff\xff\xff\xff", struct.pack("<I", 3) + b"abc" + b"\1"]
)
def test_binary_elements_that_do_not_add_up_are_refused(server, packed):
    sent, headers = binary({"inputs": [tensor(parameters={"binary_data_size": len(packed)})]}, packed)
    assert server.call("POST", INFER, sent, headers).status == 400
    sent, headers = binary({"inputs": [tensor(parameters={"binary_data_size": len(packed) + 1})]}, packed)
    assert server.call("POST", INFER, sent, headers).status == 400
