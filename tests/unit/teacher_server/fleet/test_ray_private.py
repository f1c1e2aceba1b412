"""What the fleet uses of Ray beside its public API is still there, under the names that it uses."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
import ray
from ray import serve
from ray.serve.config import AutoscalingConfig

from teacher_server.fleet.ray_private import HEAD_RESOURCE, keep_stdout
from tests.support.symbols import symbol

ROOT = Path(__file__).resolve().parents[4]
# Of an import of Ray, or an argument of one of its functions.
PRIVATE = re.compile(
    r"^\s*(from|import) ray[\w.]*\._|^\s*from ray[\w.]* import _|\b(_internal|_temp_dir)=",
    re.MULTILINE,
)
MODULES = {Path(room, "ray_private.py") for room in ("teacher_server/fleet", "cluster/machines")}


@pytest.mark.parametrize(
    "name",
    [
        "ray._raylet:Config.initialize",
        "ray._private.ray_constants:ENABLE_RAY_CLUSTER",
        "ray.serve._private.common:DeploymentID",
        "ray.serve._private.constants:SERVE_CONTROLLER_NAME",
        "ray.serve._private.constants:SERVE_NAMESPACE",
        "ray.serve._private.client:ServeControllerClient.get_serve_details",
        "ray.serve._private.controller:ServeController.update_deployment_replicas",
        "ray.serve.context:_get_global_client",
        "ray._private.state:available_resources_per_node",
        "ray._private.worker:Worker.current_cluster_and_job",
        "ray.serve._private.deployment_scheduler:DeploymentScheduler._schedule_replica",
        "ray.serve._private.deployment_scheduler:DeploymentScheduler._schedule_with_spread_strategy",
        "ray.serve._private.deployment_scheduler:DeploymentScheduler._get_available_resources_per_node",
    ],
)
def test_symbol_that_we_use_is_there(name: str) -> None:
    assert symbol(name) is not None


def test_deployment_takes_a_version_of_ours() -> None:
    assert {"version", "_internal"} <= set(inspect.signature(serve.Deployment.options).parameters)


def test_cluster_takes_a_folder_of_ours() -> None:
    assert '"_temp_dir"' in inspect.getsource(ray.init)


def test_what_a_driver_hears_of_its_cluster_is_not_written_into_our_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = importlib.import_module("ray._private.worker")
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    keep_stdout()
    said = {"lines": ["a node is lost"], "pid": "raylet", "is_err": False}
    worker.print_to_stdstream(said, ignore_prefix=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "a node is lost" in captured.err
    # The thread that hears of it takes this function, by this name.
    assert "print_to_stdstream(" in inspect.getsource(worker.listen_error_messages)


def test_head_node_and_reports_have_the_names_that_we_use() -> None:
    constants = importlib.import_module("ray._common.constants")
    assert constants.HEAD_NODE_RESOURCE_NAME == HEAD_RESOURCE
    assert "metrics_interval_s" in AutoscalingConfig.model_fields


def test_no_other_module_uses_what_is_private() -> None:
    found = {
        path.relative_to(ROOT)
        for package in ("trainer", "teacher_server", "cluster", "protos")
        for path in (ROOT / package).rglob("*.py")
        if PRIVATE.search(path.read_text())
    }
    assert found == MODULES


def test_range_of_ray_ends_at_the_minor_version_that_is_tested() -> None:
    major, minor = (int(it) for it in ray.__version__.split(".")[:2])
    assert (
        f'"ray[default,serve]>={major}.{minor},<{major}.{minor + 1}"'
        in (ROOT / "pyproject.toml").read_text()
    )
