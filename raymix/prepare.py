"""`python -m raymix.prepare`: media files to Parquet clips with a manifest of one row per file.

On a cluster the work runs on Ray Data, a unit of files a task. On one machine it runs in as many processes as CPUs, a
file a task, and Ray is not started: its start takes as long as some forty videos. The same command continues where an
interrupted one stopped, and returns at once when the dataset is prepared.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take seconds
    from raymix import cli

    cli.run_named_command("prepare")


from raymix.cli.commands import run_command
from raymix.config import PrepareConfig
from raymix.config.errors import value_error_as_config_error
from raymix.config.validation import validate_config
from raymix.data.preparation import scene_lists
from raymix.data.preparation.pipeline import prepare_dataset
from raymix.data.preparation.scene_lists import SceneListRequest
from raymix.reporting import dataset_inspection
from raymix.runtime import ray_cluster


def run_prepare(config: PrepareConfig) -> int:
    """Prepare a dataset and its scene lists, or write the inspection page of a prepared one.

    Returns:
        The exit code.
    """
    validate_config(config)
    if config.inspect:
        with value_error_as_config_error():
            dataset_inspection.inspect_dataset(config.inspect, config.output, config.pictures, config.seed)
        return 0
    with value_error_as_config_error():
        request = SceneListRequest(config.layouts, config.pair_lists, config.split, config.scenes, config.seed)
        request.check()
        if ray_cluster.local_machine_resources(config.cluster) is None:  # the cluster is not this machine
            ray_cluster.start_or_join_ray(config.cluster)
            from raymix.runtime import cluster_nodes

            cluster_nodes.check_shared_paths(cluster_nodes.local_path_settings(config))
        report = prepare_dataset(config.dataset, workers=ray_cluster.local_cpu_count(config.cluster))
    if not report.fresh:
        print(f"prepare: {report.prepared} is prepared already: {sum(report.clips.values())} clips")
        if missing := report.statuses.get("missing", 0):
            print(f"prepare: {missing} listed ids were missing then; dataset.overwrite=true looks for them again")
    if config.layouts or config.pair_lists:
        with value_error_as_config_error():
            scene_lists.write_scene_lists(config.dataset.prepared, request)
    return 0


def main() -> None:
    run_command(run_prepare, "prepare")
