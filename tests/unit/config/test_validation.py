"""Settings, their ranges, and the rules between them."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from raymix.config import (
    METHOD_CONFIGS,
    ConfigError,
    TrainConfig,
    TuneConfig,
    config_from_plain,
    config_hash,
    config_to_plain,
    default_method_settings,
    did_you_mean,
    did_you_mean_setting,
    flatten_config,
    override_config,
    package_data_folder,
)
from raymix.config.errors import range_violation
from raymix.config.migration import OLD_SETTINGS, current_setting_names
from raymix.config.validation import config_problems, validate_config


def run(**changes: object) -> TrainConfig:
    plain = override_config(
        config_to_plain(TrainConfig()), {name.replace("__", "."): value for name, value in changes.items()}
    )
    return config_from_plain(plain)  # type: ignore[no-any-return]


def test_the_defaults_are_the_papers_and_pass() -> None:
    good = validate_config(TrainConfig())
    assert (good.training.batch_size, good.mixture.k, good.mixture.seconds, good.encoder.width) == (128, 2, 0.96, 64)
    assert (good.optimizer.learning_rate, good.optimizer.weight_decay, good.training.epochs) == (1e-4, 5e-4, 30)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer__learning_rate": -1.0}, "optimizer.learning_rate=-1.0: must be greater than 0"),
        ({"mixture__k": 9}, "mixture.k=9: must be 1 to 8"),
        ({"training__precision": "fp8"}, "training.precision=fp8: must be one of fp32, bf16"),
        ({"training__batch_size": 129}, "training.batch_size=129: not divisible by mixture.k=2"),
        ({"training__batch_size": 126, "cluster__workers": 4}, "not divisible by mixture.k x cluster.workers = 2 x 4"),
        ({"training__batch_size": 2, "mixture__k": 3}, "mixture.k=3: larger than training.batch_size=2"),
        ({"encoder__image_size": 100}, "encoder.image_size=100: must be a multiple of 16"),
        ({"mixture__seconds": 4.0}, "mixture.seconds=4.0: longer than dataset.clip_seconds=3.0"),
        ({"dataset__val": 0.6, "dataset__test": 0.5}, "leave no videos to train on"),
        (
            {"training__compile": True, "training__sync_batch_norm": True, "cluster__workers": 2},
            "training.compile=true: torch.compile stops at every BatchNorm",
        ),
        ({"optimizer__learning_rate": math.nan}, "must be a number"),
    ],
)
def test_a_broken_rule_is_said_in_one_line(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate_config(run(**changes))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_override_refuses_a_stranger_and_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"optimizer.learning_rat: no such setting \(did you mean optimizer.learning_rate"
    ):
        override_config(config_to_plain(TrainConfig()), {"optimizer.learning_rat": 1.0})


def test_plain_and_back_is_the_same_config() -> None:
    config = TuneConfig()
    config.method = {"name": "cycle", "temperature": 0.1}
    assert config_from_plain(config_to_plain(config), TuneConfig) == config
    assert (
        config_from_plain(config_to_plain(config)).method == config.method
    )  # a poorer schema drops what it does not know


def test_a_signature_names_the_whole_config() -> None:
    plain = config_to_plain(TrainConfig())
    assert config_hash(plain) == config_hash(config_to_plain(TrainConfig()))
    assert config_hash(plain) != config_hash(override_config(plain, {"training.seed": 1}))


def test_nearest_and_flatten() -> None:
    assert did_you_mean("cycel", ["cycle", "isi"]) == " (did you mean cycle?)"
    assert did_you_mean("zzz", ["a", "b"]) == " (one of: a, b)"
    assert flatten_config({"a": {"b": 1, "c": {}}, "d": 2}) == {"a.b": 1, "a.c": {}, "d": 2}


@pytest.mark.parametrize("old", [*OLD_SETTINGS, "fit.epochs"])
def test_a_setting_of_version_0_1_is_answered_with_its_new_name(old: str) -> None:
    names = list(flatten_config(config_to_plain(TuneConfig())))
    assert did_you_mean_setting(old, names) == f" (did you mean {current_setting_names(old)}?)"


def test_ranges_of_method_knobs() -> None:
    broken = TrainConfig()
    broken.method = {"name": "cycle", "temperature": 0.0}
    assert config_problems(broken) == ["method.temperature=0.0: must be greater than 0"]
    assert range_violation("x", True, {"low": 1}) == "x=True: must be a number"


@pytest.mark.parametrize("name", METHOD_CONFIGS)
def test_the_defaults_of_every_method_are_in_their_ranges(name: str) -> None:
    config = TrainConfig()
    config.method = default_method_settings(name)
    assert config_problems(config) == [] and config.method["name"] == name
    assert all(item.metadata["help"] for item in dataclasses.fields(METHOD_CONFIGS[name]))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "cylce"}, "method=cylce: unknown (did you mean cycle?)"),
        (
            {"name": "cycle", "temprature": 1.0},
            "method.temprature: cycle has no such setting (did you mean temperature?)",
        ),
        ({"name": "permute", "temperature": 0.1}, "method.temperature: permute has no such setting"),
        ({"name": "dsol", "clusters": 1.5}, "method.clusters=1.5: must be a whole number"),
        ({"name": "cycle", "temperature": None}, "method.temperature=None: must be a number"),
        ({"name": "cycle", "pool": "mx"}, "method.pool=mx: must be one of max, lse (did you mean max?)"),
        (
            {"name": "lvs", "negative_threshold": 0.7},
            "method.negative_threshold=0.7: must not be above method.positive_threshold=0.65",
        ),
    ],
)
def test_settings_of_a_method_are_refused_in_one_line(settings: dict[str, object], sentence: str) -> None:
    config = TrainConfig()
    config.method = settings
    [found] = config_problems(config)
    assert found.startswith(sentence) and "\n" not in found


def test_methods_are_configured_without_torch() -> None:
    code = "import sys, raymix.config, raymix.config.validation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_yaml_of_a_method_repeats_no_setting() -> None:
    files = sorted((package_data_folder("configs") / "method").glob("*.yaml"))
    assert [file.stem for file in files] == sorted(METHOD_CONFIGS)
    for file in files:
        loaded = OmegaConf.load(file)
        package = "method" if "study" in loaded or "mixture" in loaded else "_here_"
        assert loaded.defaults == [f"/method_defaults/{file.stem}@{package}"] and "method" not in loaded
        assert not set(loaded) & {item.name for item in dataclasses.fields(METHOD_CONFIGS[file.stem])}
