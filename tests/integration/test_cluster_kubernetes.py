"""The KubeRay files of cluster/: the CRDs' own schemas where they are at hand, and our rules, which are seen to refuse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import cluster_file_rules as rules
from tests.support.cluster_file_rules import CLUSTER, KUBERAY, ROOT, load, manifest, spoilt


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_rules(name: str) -> None:
    assert rules.kubernetes(manifest(name)) == []


HEAD, WORKER = "headGroupSpec/template/spec", "workerGroupSpecs/0/template/spec"
BROKEN_MANIFESTS: list[tuple[str, Any]] = [
    ("authOptions/mode", "disabled"),
    ("authOptions/secretName", None),
    ("headGroupSpec/serviceType", "LoadBalancer"),
    ("headGroupSpec/rayStartParams/dashboard-hots", "127.0.0.1"),
    ("headGroupSpec/rayStartParams/dashboard-host", "0.0.0.0"),
    ("headGroupSpec/rayStartParams/num-cpus", "4"),
    (f"{HEAD}/securityContext/runAsNonRoot", False),
    (f"{HEAD}/containers/0/env", [{"name": "RAY_AUTH_MODE", "value": "disabled"}]),
    (f"{WORKER}/containers/0/env", [{"name": "RAY_AUTH_TOKEN", "value": "f3a9"}]),
    (f"{WORKER}/containers/0/securityContext/allowPrivilegeEscalation", None),
    (f"{WORKER}/containers/0/resources/limits/memory", None),
    (f"{WORKER}/containers/0/volumeMounts", []),
    (f"{WORKER}/volumes/0/emptyDir/sizeLimit", None),
    ("workerGroupSpecs/0/maxReplicas", 100),
    ("workerGroupSpecs/0/minReplicas", 1),
    ("autoscalerOptions/idleTimeoutSeconds", 3600),
]
BROKEN_JOBS: list[tuple[str, Any]] = [
    ("backoffLimit", 0),
    ("shutdownAfterJobFinishes", False),
    ("submissionMode", "HTTPMode"),
    ("entrypoint", "python -m raymix.tune home=s3://bucket/raymix"),
    ("entrypoint", "python -m raymix.tune home=/tmp/raymix study.name=mine"),
    ("submitterPodTemplate/spec/securityContext/runAsUser", None),
]


@pytest.mark.parametrize(("where", "value"), BROKEN_MANIFESTS)
def test_kubernetes_rules_refuse(where: str, value: Any) -> None:
    assert rules.kubernetes(spoilt(manifest("raycluster.yaml"), f"spec/{where}", value))


@pytest.mark.parametrize(("where", "value"), BROKEN_JOBS)
def test_job_rules_refuse(where: str, value: Any) -> None:
    assert rules.kubernetes(spoilt(manifest("rayjob.yaml"), f"spec/{where}", value))


def schema(kind: str) -> tuple[Path, dict[str, Any] | None]:
    """(where it was looked for, the v1 schema of a KubeRay CRD): RAYMIX_KUBERAY_SCHEMAS, else beside the checkout."""
    path = Path(os.environ.get("RAYMIX_KUBERAY_SCHEMAS") or ROOT.parent / "shared/schemas") / kind
    if not path.exists():
        return path, None
    definition = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [version] = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    return path, version["schema"]["openAPIV3Schema"]


def unknown(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Keys that a CRD's schema does not have: the server would drop them without a word."""
    wrong = []
    if isinstance(value, list):
        for index, each in enumerate(value):
            wrong += unknown(each, schema.get("items", {}), f"{path}[{index}]")
    elif isinstance(value, dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        for key, inner in value.items():
            deeper = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            if isinstance(deeper, dict):
                wrong += unknown(inner, deeper, f"{path}.{key}")
            elif deeper is not True and path != ".metadata":  # metadata is Kubernetes' own, not spelt out in a CRD
                wrong.append(f"{path}.{key}: no such key")
    return wrong


@pytest.mark.parametrize(("name", "kind"), KUBERAY.items())
def test_kuberay_accepts_it(name: str, kind: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema (pip install '.[test]')")
    (where, crd), given = schema(kind), manifest(name)
    if crd is None:
        pytest.skip(f"no {where}: set RAYMIX_KUBERAY_SCHEMAS to a folder with KubeRay's CRDs")
    judge = jsonschema.validators.validator_for(crd)(crd)
    judge.validate(given)
    assert unknown(given, crd) == []
    ours = "spec/rayClusterSpec" if given["kind"] == "RayJob" else "spec"
    misspelt = spoilt(given, f"{ours}/workerGroupSpecs/0/maxReplica", 5)
    judge.validate(misspelt)  # a CRD says nothing of a key that it does not know: it drops it
    path = ours.replace("/", ".")
    assert unknown(misspelt, crd) == [f".{path}.workerGroupSpecs[0].maxReplica: no such key"]
    for key, value in (("authOptions/mode", "tokn"), ("headGroupSpec/rayStartParams/num-cpus", 0)):
        with pytest.raises(jsonschema.ValidationError):
            judge.validate(spoilt(given, f"{ours}/{key}", value))


def test_the_job_is_the_same_search_on_the_same_cluster() -> None:
    job, cluster = manifest("rayjob.yaml"), manifest("raycluster.yaml")
    assert rules.cluster_spec(job) == cluster["spec"]
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"]) == load("runtime_env.yaml")
    said = " ".join((CLUSTER / "kuberay/raycluster.yaml").read_text().replace("\\\n#", " ").split())
    assert job["spec"]["entrypoint"] in said


def test_only_the_cluster_itself_and_who_drives_it_get_in() -> None:
    account, policy = yaml.safe_load_all((CLUSTER / "kuberay/access.yaml").read_text())
    spec = manifest("rayjob.yaml")["spec"]
    pods = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for template in (pod["template"] for pod in pods):
        assert template["metadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"]
        assert template["spec"]["serviceAccountName"] == account["metadata"]["name"]
    within, drivers = policy["spec"]["ingress"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert within == {"from": [{"podSelector": policy["spec"]["podSelector"]}]}
    submitter, operator = drivers["from"]
    assert submitter["podSelector"]["matchLabels"] == spec["submitterPodTemplate"]["metadata"]["labels"]
    assert set(operator) == {"namespaceSelector", "podSelector"} and operator["namespaceSelector"]["matchLabels"]
    assert [port["port"] for port in drivers["ports"]] == [8265]
