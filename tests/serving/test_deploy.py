"""The container file and the manifests name what is there: options, paths, the port, the metric, the model."""

import argparse
import re
from pathlib import Path

import pytest
import yaml

from eca_jax.commands import serve

DEPLOY = Path(__file__).parents[2] / "deploy"


def documents(name):
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / f"{name}.yaml").read_text()))


def parse(arguments):
    parser = argparse.ArgumentParser()
    serve.add_parsers(parser.add_subparsers())
    return parser.parse_args(["serve", *arguments])


def container_command():
    lines = dict(re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.M))
    return {name: yaml.safe_load(text) for name, text in lines.items()}


@pytest.mark.parametrize("accelerator", ["gpu", "tpu"])
def test_a_pod_is_started_asked_and_ended_as_the_server_expects(server, accelerator):
    (deployment,) = documents(accelerator)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    program, name, *fixed = container_command()["ENTRYPOINT"]
    args = parse([*fixed, *container["args"]])
    assert (program, name, args.host, args.port) == (
        "eca-jax",
        "serve",
        "0.0.0.0",
        container["ports"][0]["containerPort"],
    )
    assert any(mount["mountPath"] == "/cache" for mount in container["volumeMounts"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server.call("GET", container[probe]["httpGet"]["path"]).status == 200
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + 2 * args.max_seconds


def test_the_autoscaler_reads_a_metric_that_is_there(server):
    (monitoring,), (scaler,) = documents("monitoring"), documents("autoscaler")
    (endpoint,) = monitoring["spec"]["endpoints"]
    (metric,) = scaler["spec"]["metrics"]
    _, name, kind = metric["pods"]["metric"]["name"].split("|")
    assert f"# TYPE {name} {kind}\n" in server.call("GET", endpoint["path"]).body.decode()


def test_the_containers_own_command_is_one():
    command = container_command()
    assert parse([*command["ENTRYPOINT"][2:], *command["CMD"]]).weights == ["/weights"]
