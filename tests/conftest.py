"""Settings of the test session: one Ray, small and quiet, for every test that needs it."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymix.runtime.storage import resolve_uri
from tests.support.s3_server import Store

os.environ.update(
    RAY_AUTH_MODE="disabled",
    OMP_NUM_THREADS="1",
    RAY_TRAIN_COLLECTIVE_TIMEOUT_S="120",
    RAY_memory_monitor_refresh_ms="0",
    RAY_DEDUP_LOGS="0",
    HYDRA_FULL_ERROR="1",
)


# The small demo of the `demo` fixture and a model to match, as words of a command line.
SMALL = (
    "dataset.videos=40",
    "dataset.video_seconds=4",
    "dataset.frame_size=64",
    "dataset.val=0.25",
    "dataset.test=0.25",
    "dataset.duets=0",
    "encoder.width=4",
    "encoder.image_size=64",
    "method.embedding_size=8",
    "training.batch_size=6",
    "evaluation.scenes=16",
    "evaluation.final_scenes=16",
    "cluster.dashboard=false",
    "cluster.object_store_gib=0.2",
)


MARKS = {"ray_session": "ray", "store": "s3", "s3": "s3", "rough": "s3"}  # by the fixtures of a test


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test by its fixtures; with pytest-xdist, tests that start Ray share one process, others one for each file.

    Groups are set here, since pytest-xdist reads them before `pytest_collection_modifyitems` of this file runs.
    """
    names = set(getattr(item, "fixturenames", ()))
    if "ray_session" in names and "s3" not in names:
        names.discard("store")  # which `ray_session` needs, and not the test
    for fixture in names & MARKS.keys():
        item.add_marker(MARKS[fixture])
    item.add_marker(pytest.mark.xdist_group("ray" if item.get_closest_marker("ray") else item.path.name))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that start Ray come first: one process needs about as long for them as another for all the rest."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    if getattr(config.option, "loadgroup", False) and not all("@" in item.nodeid for item in items):
        raise pytest.UsageError("this version of pytest-xdist does not group tests under this version of pytest")


@pytest.fixture(scope="session")
def ray_session(store: Store) -> Iterator[None]:
    """One local Ray with more logical CPUs than cores: tests wait more than they compute.

    Its workers read S3 in the environment of `store`: some tests prepare data there while this session runs.
    """
    from raymix.runtime import ray_cluster

    for name, value in ray_cluster.RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    temporary = tempfile.mkdtemp(prefix="rx", dir="/tmp")  # short: Ray's sockets live below it
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        ray.init(
            address="local",
            num_cpus=8,
            object_store_memory=300 << 20,
            include_dashboard=False,
            logging_level="error",
            log_to_driver=False,
            _temp_dir=temporary,
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    """An S3 server that fails 2 % of all requests."""
    running = Store(fail=0.02)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        resolve_uri(f"{running.uri}?allow_bucket_creation=true")[0].create_dir(running.uri.removeprefix("s3://"))
    yield running
    running.close()


@pytest.fixture
def s3(store: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URI of one's own on `store`, in whose environment the test runs."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return f"{store.uri}/{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo, through the ordinary importer: 40 videos of 4 seconds, prepared at 64 px."""
    from raymix.config import DatasetConfig
    from raymix.data.preparation.pipeline import prepare_dataset

    home = tmp_path_factory.mktemp("home")
    settings = DatasetConfig(
        name="demo",
        root=str(home / "videos/demo"),
        prepared=str(home / "clips/demo"),
        frame_size=64,
        frames=3,
        clip_seconds=2.0,
        stride_seconds=2.0,
        val=0.25,
        test=0.25,
        classes="parent",
        videos=40,
        video_seconds=4.0,
        duets=0.0,
    )
    prepare_dataset(settings, echo=lambda line: None)
    return home
