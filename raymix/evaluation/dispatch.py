"""Runs what the settings of `raymix.evaluate` ask for: checkpoints, predictions, comparisons, exported scenes, paper exhibits."""

from __future__ import annotations

from raymix.cli.setting_conflicts import refuse_ignored_settings
from raymix.config import ConfigError, EvaluateConfig, config_from_plain
from raymix.config.errors import value_error_as_config_error
from raymix.config.validation import validate_config
from raymix.evaluation import benchmark, export, paired, paper, protocol_reports
from raymix.evaluation.candidates import CheckpointSource
from raymix.evaluation.scene_spec import scene_spec_from_settings
from raymix.evaluation.study_evaluation import Echo, _candidates, _remember, _something, final_evaluation
from raymix.reporting.results_folder import ResultsFolder
from raymix.runtime.storage import assert_writable


def run_evaluation(settings: EvaluateConfig, echo: Echo = print) -> ResultsFolder:
    """What the settings ask for: checkpoints scored, or predictions, two results compared, or scenes written out."""
    validate_config(settings)
    asked = [name for name in ("predictions", "export", "compare") if getattr(settings, name)]
    asked += [name for name in ("tables", "figures") if getattr(settings, name)][:1]
    if len(asked) > 1:
        raise ConfigError(f"{asked[0]}= and {asked[1]}=: one at a time")
    refuse_ignored_settings(settings)
    if settings.protocols:
        return evaluate_under_protocols(settings, asked, echo)
    if not asked:
        return (
            evaluate_on_named_scenes(settings, echo)
            if settings.layout or settings.pair_list
            else final_evaluation(settings, echo)
        )
    with value_error_as_config_error():
        if asked[0] in ("tables", "figures"):
            return paper.make_paper_exhibits(settings, echo)
        source = CheckpointSource.find(settings) if settings.study else None
        run = config_from_plain(source.study.config) if source else None
        if asked == ["predictions"]:
            return benchmark.evaluate_predictions(settings, run, echo)
        if asked == ["compare"]:
            return paired.compare_results(settings, run, echo)
        stage = scene_spec_from_settings(settings, run)
        assert_writable(settings.export)
        return export.export_scenes(stage, settings.export, echo)


def evaluate_on_named_scenes(settings: EvaluateConfig, echo: Echo = print) -> ResultsFolder:
    """Score checkpoints on the scenes of `layout=` or `pair_list=`."""
    _something(settings)
    with value_error_as_config_error():
        source, candidates = _candidates(settings, echo)
        report = benchmark.evaluate_checkpoints_on_scenes(settings, source, candidates, echo)
    if source.named and settings.split == "test":
        _remember(source, report)
    return report


def evaluate_under_protocols(settings: EvaluateConfig, asked: list[str], echo: Echo = print) -> ResultsFolder:
    """Score predictions, or checkpoints, under every protocol of `protocols=`."""
    listed = f"protocols={','.join(settings.protocols)}"
    if others := [name for name in asked if name != "predictions"]:
        raise ConfigError(f"{listed}: goes with predictions=FILE, or with study= or checkpoint=, not with {others[0]}=")
    with value_error_as_config_error():
        protocol_reports.choose_protocols(settings.protocols)
        if asked:
            of = CheckpointSource.find(settings) if settings.study else None
            return protocol_reports.report_predictions_file(
                settings, config_from_plain(of.study.config) if of else None, echo
            )
        _something(settings)
        source, candidates = _candidates(settings, echo)
        report = protocol_reports.report_checkpoints(settings, source, candidates, echo)
    if source.named and settings.split == "test":
        _remember(source, report)
    return report
