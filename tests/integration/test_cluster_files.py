"""The files of cluster/, without a cloud: Ray's own checks, and our rules, which are seen to refuse."""

from __future__ import annotations

import copy
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymix.config import ClusterConfig, ConfigError
from raymix.runtime import ray_cluster
from raymix.runtime.cluster_capacity import slot_capacity
from tests.support import cluster_file_rules as rules
from tests.support.cluster_file_rules import CLOUDS, CLUSTER, KUBERAY, LAUNCHER, ROOT, load, manifest, spoilt

DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
FILES = sorted(
    path for path in CLUSTER.rglob("*") if path.is_file() and path.suffix != ".md" and "token" not in path.parts
)
HOW = re.compile(
    r"^# +(?:\w+=\w+ )?(ray up|docker build|docker push|kubectl apply|kubectl delete|ray down|ray job submit) ", re.M
)


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` sees it before it talks to a cloud. Raises what Ray raises."""
    pytest.importorskip("jsonschema", reason="Ray's own check needs jsonschema (pip install '.[test]')")
    from ray.autoscaler._private.util import prepare_config, validate_config

    whole: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(whole)
    return whole


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_accepts_it(name: str) -> None:
    whole = prepared(load(name))
    assert whole["cluster_name"] == "raymix"
    said = [command for key, commands in whole.items() if key.endswith("_commands") for command in commands]
    assert not any("http" in command for command in said), "a default of Ray's installs something from the network"


def test_ray_would_have_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    pytest.importorskip("jsonschema")
    for where, value in (("dockr", {}), ("max_workers", -1), ("available_node_types/raymix_gpu/resources", None)):
        with pytest.raises(Exception, match=r"dockr|-1|resources"):
            prepared(spoilt(load("aws.yaml"), where, value))


@pytest.mark.parametrize("name", LAUNCHER)
def test_launcher_rules(name: str) -> None:
    config = load(name)
    assert rules.launcher(config) == []
    if name in CLOUDS:
        assert rules.cloud(config) == []


def starting(role: str, old: str, new: str) -> tuple[str, str, str]:
    command = rules.starts(load("aws.yaml"), role)[0]
    assert old in command
    return f"{role}_start_ray_commands/1", command.replace(old, new), "aws.yaml"


BROKEN: list[tuple[str, Any, str]] = [
    starting("head", "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"),
    starting("worker", "export RAY_AUTH_MODE=token ", "export "),
    starting("worker", "/home/ray/.raymix/auth_token", "/tmp/token"),
    starting("head", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
    starting("head", "--dashboard-host=127.0.0.1", ""),
    starting("head", "--disable-usage-stats", "--no-usage-stats"),
    starting("worker", "unset OMP_NUM_THREADS; ", ""),
    ("provider/use_internal_ips", False, "gcp.yaml"),
    ("auth/ssh_proxy_command", None, "aws.yaml"),
    ("provider/cache_stopped_nodes", None, "aws.yaml"),
    ("provider/security_group", {"GroupName": "raymix"}, "aws.yaml"),
    ("provider/note", "RAY_AUTH_TOKEN=f3a9", "gcp.yaml"),
    ("provider/aws_access_key_id", "AKIA0123456789ABCDEF", "aws.yaml"),
    ("provider/head_ip", "8.8.8.8", "on_prem.yaml"),
    ("idle_timeout_minutes", 30, "aws.yaml"),
    ("max_workers", 50, "aws.yaml"),
    ("file_mounts", {}, "on_prem.yaml"),
    ("setup_commands/0", "true", "on_prem.yaml"),
    ("docker/run_options", ["--security-opt=no-new-privileges"], "gcp.yaml"),
    ("available_node_types/raymix_head/resources/CPU", 4, "aws.yaml"),
    ("available_node_types/raymix_head/node_config/MetadataOptions/HttpTokens", "optional", "aws.yaml"),
    ("available_node_types/raymix_gpu/node_config/NetworkInterfaces/0/AssociatePublicIpAddress", True, "aws.yaml"),
    ("available_node_types/raymix_gpu/node_config/IamInstanceProfile", None, "aws.yaml"),
    ("available_node_types/raymix_gpu/node_config/InstanceMarketOptions", None, "aws.yaml"),
    ("available_node_types/raymix_gpu/min_workers", 1, "gcp.yaml"),
    ("available_node_types/raymix_gpu/node_config/networkInterfaces", None, "gcp.yaml"),
    ("available_node_types/raymix_gpu/node_config/networkInterfaces/0/accessConfigs", [{"name": "NAT"}], "gcp.yaml"),
    ("available_node_types/raymix_gpu/node_config/serviceAccounts", None, "gcp.yaml"),
]


@pytest.mark.parametrize(("where", "value", "name"), BROKEN)
def test_launcher_rules_refuse(where: str, value: Any, name: str) -> None:
    broken = spoilt(load(name), where, value)
    assert rules.launcher(broken) + (rules.cloud(broken) if name in CLOUDS else [])


def test_one_image_everywhere() -> None:
    [header] = set(re.findall(r"-t (\S+) \.$", DOCKERFILE, re.M))
    for name in (*CLOUDS, *(f"kuberay/{name}" for name in KUBERAY)):
        named = rules.images(load(name))
        assert named, name
        assert [sentence for each in named for sentence in rules.image(each, header)] == [], name
    bare = header.rpartition(":")[0]
    assert rules.image("other/" + header, header)
    assert all(rules.image(moving, moving) for moving in (bare, f"{bare}:latest"))
    ray = rules.constraints()["ray"]
    [python] = re.findall(r"^FROM python:(\d+\.\d+)\.", DOCKERFILE, re.M)
    from raymix import __version__

    assert header.endswith(f":{__version__}-ray{ray}-py{python.replace('.', '')}")


def test_versions_are_those_of_the_project() -> None:
    assert rules.dockerfile(DOCKERFILE) == []
    pins, tested = rules.project_pins(), rules.constraints()
    assert [name for name in rules.SAME_ON_ALL_NODES if tested[name] not in pins[name]] == []
    ray = tested["ray"]
    for name in KUBERAY:
        assert rules.cluster_spec(manifest(name))["rayVersion"] == ray
    for path in FILES:
        found = set(re.findall(r"\bray(?:\[[a-z,]*\])?==(\d[\d.]*\d)", path.read_text()))
        assert found <= {ray}, path.name
    on_prem = (CLUSTER / "on_prem.yaml").read_text()
    assert rules.unconstrained(load("on_prem.yaml")["setup_commands"]) == []
    assert load("on_prem.yaml")["file_mounts"]["~/raymix-src/constraints.txt"] == "constraints.txt"
    pythons = re.findall(r"\bpython(3\.\d+)", on_prem)
    assert pythons and all(f"{version}.0" in rules.project_pins()["python"] for version in pythons)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("USER ray", ""),
        ("USER ray", "USER root"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"),
        ("RUN pip install --no-cache-dir -c constraints.txt .", "RUN pip install --no-cache-dir ."),
        ("RUN pip install --no-cache-dir -c constraints.txt boto3", "RUN pip install --no-cache-dir boto3"),
        ("FROM python:3.11.14-", "FROM python:3.10.14-"),
        ("COPY raymix raymix", "COPY . ."),
        ("COPY raymix raymix", "COPY cluster/token /home/ray/.raymix"),
    ],
)
def test_dockerfile_rules_refuse(old: str, new: str) -> None:
    assert old in DOCKERFILE
    assert rules.dockerfile(DOCKERFILE.replace(old, new))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_says_how_and_at_what_cost(path: Path) -> None:
    if path.suffix == ".dockerignore":
        return
    head = re.match(r"(#.*\n)+", path.read_text())
    assert head and HOW.search(head[0])
    if path.name != "runtime_env.yaml":
        assert "Costs" in head[0] and len(HOW.findall(head[0])) >= 2
    assert not re.search(r"^[^#]*0\.0\.0\.0", path.read_text(), re.M)


def test_jobs_bring_what_raymix_sets_elsewhere() -> None:
    """What another node's processes read is the number that raymix sets in its own; a stop leaves time to save."""
    variables = load("runtime_env.yaml")["env_vars"]
    assert all(isinstance(value, str) for value in variables.values())
    assert int(variables.pop("RAY_JOB_STOP_WAIT_TIME_S")) > ray_cluster.GRACE
    assert variables and variables == {name: ray_cluster.RAY_ENVIRONMENT.get(name) for name in variables}


def capacity(name: str) -> tuple[dict[str, float], int]:
    """(what one worker has, how many there can be)."""
    if name in CLOUDS:
        kind = load(name)["available_node_types"]["raymix_gpu"]
        return kind["resources"], kind["max_workers"]
    group = rules.cluster_spec(manifest(name))["workerGroupSpecs"][0]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return {"CPU": float(limits["cpu"]), "GPU": float(limits["nvidia.com/gpu"])}, group["maxReplicas"]


@pytest.mark.parametrize("name", [*CLOUDS, *KUBERAY])
@pytest.mark.parametrize(("profile", "machines"), [("one_gpu", 1), ("multi_node", 4)])
def test_slots_fit_the_machines(name: str, profile: str, machines: int) -> None:
    """What the head comments promise, on machines that an autoscaler has yet to bring, with one CPU of data a slot."""
    cluster = ClusterConfig(**yaml.safe_load((ROOT / f"configs/cluster/{profile}.yaml").read_text()))
    machine, most = capacity(name)
    assert machines <= most
    assert slot_capacity(cluster, [{"CPU": 0.0}], streaming=True, grows=[machine] * machines).slots == 1
    with pytest.raises(ConfigError, match="the cluster is too small"):
        slot_capacity(cluster, [{"CPU": 0.0}], streaming=True, grows=[machine] * (machines - 1))


def test_upload_is_small_and_whole() -> None:
    """What `ray job submit --working-dir .` sends of a checkout, by Ray's own reading of .gitignore and .rayignore."""
    from ray._private.runtime_env.packaging import _dir_travel

    sent: dict[str, int] = {}

    def add(path: Path) -> None:
        if path.is_file():
            sent[path.relative_to(ROOT).as_posix()] = path.stat().st_size

    _dir_travel(ROOT, [], add, include_gitignore=True, logger=logging.getLogger(__name__))
    wanted = {"README.md", "pyproject.toml", "raymix/tune.py", "configs/tune.yaml", "search_spaces/cycle.yaml"}
    assert wanted | {"cluster/runtime_env.yaml"} <= set(sent)
    unwanted = (".git/", ".pictures/", ".ci/", "tests/", "cluster/token/")
    assert ".git" not in sent
    assert not [name for name in sent if name.startswith(unwanted) or "__pycache__" in name]
    assert sum(sent.values()) < 10e6
