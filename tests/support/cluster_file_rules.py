"""What the files of cluster/ must keep to, as functions: a loaded file in, what is wrong with it out, in sentences.

Functions, so that a test can hand them a file with one thing spoilt and see it refused.
"""

from __future__ import annotations

import copy
import ipaddress
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHER = ("on_prem.yaml", "aws.yaml", "gcp.yaml")
CLOUDS = LAUNCHER[1:]
KUBERAY = {"raycluster.yaml": "ray.io_rayclusters.yaml", "rayjob.yaml": "ray.io_rayjobs.yaml"}
IDLE_MINUTES, MOST_WORKERS = 10, 8
SAME_ON_ALL_NODES = ("ray", "torch", "torchvision", "torchaudio")
SECRET = re.compile(
    r"AKIA[0-9A-Z]{12}|BEGIN [A-Z ]*PRIVATE KEY|(?i:secret_?access_?key|password|auth_token)\W*[:=]\s*\S"
)
TOKEN_FILE = re.compile(r"RAY_AUTH_TOKEN_PATH=(/home/ray|~)/\.raymix/auth_token\b")


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return loaded


def manifest(name: str) -> dict[str, Any]:
    return load(f"kuberay/{name}")


def spoilt(config: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """A copy with the value at a path (`a/0/b`) replaced, or taken away (None)."""
    config = copy.deepcopy(config)
    *path, leaf = [int(part) if part.isdigit() else part for part in where.split("/")]
    node: Any = config
    for part in path:
        node = node[part]
    if value is None:
        del node[leaf]
    else:
        node[leaf] = value
    return config


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every (path, value) of a loaded file that is neither a mapping nor a list."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def starts(config: dict[str, Any], role: str) -> list[str]:
    return [command for command in config[f"{role}_start_ray_commands"] if "ray start" in command]


def options(command: str) -> dict[str, str]:
    """The long options of the `ray start` in a shell command, each with its value."""
    words = shlex.split(command.split("ray start", 1)[1])
    return {name: value for name, _, value in (word.partition("=") for word in words if word.startswith("--"))}


def known_options() -> set[str]:
    """Those that this Ray's `ray start` has, as `--name`."""
    from ray.scripts.scripts import start

    return {name for parameter in start.params for name in (*parameter.opts, *parameter.secondary_opts)}


def open_addresses(config: Any) -> list[str]:
    """No address that means everybody, no public one, nothing that looks like a key."""
    wrong = []
    for path, value in leaves(config):
        where, text = ".".join(map(str, path)), str(value)
        if "0.0.0.0" in text or "::/0" in text:
            wrong.append(f"{where}: open to everybody")
        if (path[-1] == "AssociatePublicIpAddress" and value) or "accessConfigs" in path:
            wrong.append(f"{where}: a public address")
        if SECRET.search(f"{path[-1]}={text}") or SECRET.search(TOKEN_FILE.sub("", text)):
            wrong.append(f"{where}: a secret in the file")
        if re.fullmatch(r"\d+(\.\d+){3}", text) and ipaddress.ip_address(text).is_global:
            wrong.append(f"{where}: a public address")
        if path[-1] in ("type", "serviceType") and value in ("LoadBalancer", "NodePort"):
            wrong.append(f"{where}: a service that is open to the outside")
    return wrong


def start_commands(config: dict[str, Any]) -> list[str]:
    """Token mode on every node, the dashboard on loopback, and only options that `ray start` has."""
    wrong, known = [], known_options()
    for role in ("head", "worker"):
        if len(starts(config, role)) != 1:
            wrong.append(f"{role}: not one `ray start`")
        for command in starts(config, role):
            before, given = command.split("ray start", 1)[0], options(command)
            if not re.search(r"export RAY_AUTH_MODE=token\b", before) or not TOKEN_FILE.search(before):
                wrong.append(f"{role}: Ray starts without token mode and the token's file")
            if "unset OMP_NUM_THREADS" not in before:
                wrong.append(f"{role}: the launcher's OMP_NUM_THREADS=1 reaches the workers")
            wrong += [f"{role}: ray start has no {name}" for name in given if name not in known]
            if role == "head" and given.get("--dashboard-host") != "127.0.0.1":
                wrong.append("head: the dashboard does not listen on loopback alone")
    return wrong


def launcher(config: dict[str, Any]) -> list[str]:
    """The rules of every file of the cluster launcher."""
    wrong = open_addresses(config) + start_commands(config)
    if "cluster/token" not in config.get("file_mounts", {}).values():
        wrong.append("the token is not mounted")
    if not any("chmod 600" in command and ".raymix/auth_token" in command for command in config["setup_commands"]):
        wrong.append("the token's mode is not set to 600")
    if config.get("idle_timeout_minutes", 1e9) > IDLE_MINUTES:
        wrong.append(f"machines idle longer than {IDLE_MINUTES} minutes")
    if not config["auth"].get("ssh_user"):
        wrong.append("no ssh_user")
    return wrong


def cloud(config: dict[str, Any]) -> list[str]:
    """The rules of the launcher's files that start machines: private, small, from zero, in our image."""
    wrong, provider, docker = [], config["provider"], config.get("docker", {})
    types = config["available_node_types"]
    if provider.get("use_internal_ips") is not True or not config["auth"].get("ssh_proxy_command"):
        wrong.append("machines are not reached at private addresses through a proxy")
    if provider.get("cache_stopped_nodes") is not False:
        wrong.append("ended machines keep their disks")
    if "security_group" in provider:
        wrong.append("Ray adds a rule that opens port 22 to everybody to a group that it makes by name")
    if not any(option.startswith("--shm-size=") for option in docker.get("run_options", ())):
        wrong.append("no size for /dev/shm")
    if "--security-opt=no-new-privileges" not in docker.get("run_options", ()):
        wrong.append("processes in the container may gain privileges")
    wrong += [f"{name}: {sentence}" for name, kind in types.items() for sentence in _machine(provider["type"], kind)]
    head = types[config["head_node_type"]]
    workers = [kind for name, kind in types.items() if name != config["head_node_type"]]
    if head["resources"].get("CPU") != 0 or _spot(head["node_config"]):
        wrong.append("the head must not be a spot machine, nor offer CPUs")
    if any(kind.get("min_workers") != 0 or not _spot(kind["node_config"]) for kind in workers):
        wrong.append("workers must be spot machines, from zero")
    if not sum(kind.get("max_workers", 99) for kind in workers) <= config.get("max_workers", 99) <= MOST_WORKERS:
        wrong.append("too many workers")
    return wrong


def _spot(node: dict[str, Any]) -> bool:
    market, scheduling = node.get("InstanceMarketOptions", {}), node.get("scheduling", {})
    return market.get("MarketType") == "spot" or scheduling.get("provisioningModel") == "SPOT"


def _machine(provider: str, kind: dict[str, Any]) -> list[str]:
    """One machine: declared resources, no public address, a role instead of keys."""
    node, wrong = kind["node_config"], []
    if "CPU" not in kind["resources"]:
        wrong.append("resources are not declared")
    if provider == "aws":
        interfaces = node.get("NetworkInterfaces", ())
        if not interfaces or any(i.get("AssociatePublicIpAddress") is not False or not i["Groups"] for i in interfaces):
            wrong.append("a public address, or a security group of Ray's making")
        if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
            wrong.append("IMDSv1 is on")
        if "IamInstanceProfile" not in node:
            wrong.append("no instance profile")
    elif not node.get("networkInterfaces") or not node.get("serviceAccounts"):
        wrong.append("Ray's own network interface (with a public address), or no service account")
    return wrong


def cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]
    return spec["rayClusterSpec"] if manifest["kind"] == "RayJob" else spec


def kubernetes(manifest: dict[str, Any]) -> list[str]:
    """The rules of the KubeRay files."""
    wrong, spec, known = open_addresses(manifest), cluster_spec(manifest), known_options()
    if spec.get("authOptions", {}).get("mode") != "token" or not spec["authOptions"].get("secretName"):
        wrong.append("no token mode with a Secret")
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        wrong += [f"ray start has no --{name}" for name in group["rayStartParams"] if f"--{name}" not in known]
        wrong += _pod(group["template"], ray=True)
    if manifest["kind"] == "RayJob":
        wrong += _pod(manifest["spec"]["submitterPodTemplate"], ray=False) + _job(manifest["spec"])
    if spec["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        wrong.append("the head offers CPUs")
    for group in spec["workerGroupSpecs"]:
        if group.get("minReplicas") != 0 or group.get("replicas") != 0 or group["maxReplicas"] > MOST_WORKERS:
            wrong.append("workers do not begin at zero, or are too many")
    if not spec.get("enableInTreeAutoscaling") or not 0 < _idle_seconds(spec) <= IDLE_MINUTES * 60:
        wrong.append(f"machines idle longer than {IDLE_MINUTES} minutes")
    return wrong


def _idle_seconds(spec: dict[str, Any]) -> int:
    return int(spec.get("autoscalerOptions", {}).get("idleTimeoutSeconds", 0))


def _job(spec: dict[str, Any]) -> list[str]:
    wrong = []
    if spec.get("submissionMode") != "K8sJobMode" or not spec.get("backoffLimit"):
        wrong.append("a lost head ends the study")
    if spec.get("shutdownAfterJobFinishes") is not True or not spec.get("activeDeadlineSeconds"):
        wrong.append("the cluster outlives its job")
    if not re.search(r"\bstudy\.name=\w", spec["entrypoint"]) or not re.search(r"\bhome=\w+://", spec["entrypoint"]):
        wrong.append("a second run would not be a continuation")
    return wrong


def _pod(template: dict[str, Any], ray: bool) -> list[str]:
    """One pod: no root, requests and limits, the token from the operator alone, and a sized /dev/shm where Ray runs."""
    spec, wrong = template["spec"], []
    person = spec.get("securityContext", {})
    if person.get("runAsNonRoot") is not True or not person.get("runAsUser"):
        wrong.append("runs as root")
    for container in spec["containers"]:
        resources = container.get("resources", {})
        if container.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
            wrong.append(f"{container['name']}: may become root")
        if not all(set(resources.get(kind, ())) >= {"cpu", "memory"} for kind in ("requests", "limits")):
            wrong.append(f"{container['name']}: no requests or limits")
        if any(entry["name"].startswith("RAY_AUTH") for entry in container.get("env", ())):
            wrong.append(f"{container['name']}: its own RAY_AUTH_... would stand before the operator's")
        if ray and not any(mount["mountPath"] == "/dev/shm" for mount in container.get("volumeMounts", ())):
            wrong.append(f"{container['name']}: no /dev/shm of its own")
    volumes = [volume.get("emptyDir", {}) for volume in spec.get("volumes", ())]
    if ray and not any(each.get("medium") == "Memory" and each.get("sizeLimit") for each in volumes):
        wrong.append("/dev/shm has no size")
    return wrong


def images(config: Any) -> set[str]:
    """The images that a loaded file names."""
    return {value for path, value in leaves(config) if str(path[-1]).endswith("image")}


def image(name: str, header: str) -> list[str]:
    """An image: the one that the Dockerfile's header builds, with a tag that stays what it is."""
    tag = name.rpartition(":")[2] if ":" in name.rpartition("/")[2] else ""
    return [f"{name}: not {header}"] * (name != header) + [f"{name}: a tag that moves"] * (tag in ("", "latest"))


def dockerfile(text: str) -> list[str]:
    """Not root at the end, token mode, no secrets, every package in the version that constraints.txt names."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    wrong = []
    if not users or users[-1] in ("root", "0"):
        wrong.append("runs as root")
    if not re.search(r"\bRAY_AUTH_MODE=token\b", text) or not TOKEN_FILE.search(text):
        wrong.append("no token mode")
    if SECRET.search(TOKEN_FILE.sub("", "\n".join(lines))) or any(
        re.match(r"(COPY|ADD) (.*token|\. )", x) for x in lines
    ):
        wrong.append("a secret in the image")
    pins = project_pins()
    wrong += unconstrained(lines)
    python = re.search(r"^FROM python:(\d+\.\d+\.\d+)-", text, re.M)
    if not python or python[1] not in pins["python"]:
        wrong.append("python is not as in pyproject.toml")
    return wrong


def unconstrained(commands: list[str]) -> list[str]:
    """Commands that install packages in versions of the day."""
    installs = [command for command in commands if re.search(r"\bpip install\b", command)]
    return [f"without constraints.txt: {each}" for each in installs if not re.search(r"-c \S*constraints\.txt\b", each)]


def constraints() -> dict[str, str]:
    """Package -> its version in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def project_pins() -> dict[str, Any]:
    """Package -> what pyproject.toml allows of it; `python` too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [Requirement(each) for each in project["dependencies"]]
    return {each.name: each.specifier for each in needs} | {
        "python": Requirement(f"python{project['requires-python']}").specifier
    }
