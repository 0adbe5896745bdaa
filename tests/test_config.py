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
    BadInput,
    Run,
    Tune,
    default_method_settings,
    flatten,
    folder,
    from_plain,
    nearest,
    override,
    signature,
    to_plain,
)
from raymix.rules import broken_rule, check, problems


def run(**changes: object) -> Run:
    plain = override(to_plain(Run()), {name.replace("__", "."): value for name, value in changes.items()})
    return from_plain(plain)  # type: ignore[no-any-return]


def test_the_defaults_are_the_papers_and_pass() -> None:
    good = check(Run())
    assert (good.fit.batch, good.mixture.k, good.mixture.seconds, good.encoder.width) == (128, 2, 0.96, 64)
    assert (good.optimizer.learning_rate, good.optimizer.weight_decay, good.fit.epochs) == (1e-4, 5e-4, 30)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer__learning_rate": -1.0}, "optimizer.learning_rate=-1.0: must be greater than 0"),
        ({"mixture__k": 9}, "mixture.k=9: must be 1 to 8"),
        ({"fit__precision": "fp8"}, "fit.precision=fp8: must be one of fp32, bf16"),
        ({"fit__batch": 129}, "fit.batch=129: not divisible by mixture.k=2"),
        ({"fit__batch": 126, "cluster__workers": 4}, "not divisible by mixture.k x cluster.workers = 2 x 4"),
        ({"fit__batch": 2, "mixture__k": 3}, "mixture.k=3: larger than fit.batch=2"),
        ({"encoder__image_size": 100}, "encoder.image_size=100: must be a multiple of 16"),
        ({"mixture__seconds": 4.0}, "mixture.seconds=4.0: longer than dataset.clip_seconds=3.0"),
        ({"dataset__val": 0.6, "dataset__test": 0.5}, "leave no videos to train on"),
        (
            {"fit__compile": True, "fit__sync_batch_norm": True, "cluster__workers": 2},
            "fit.compile=true: torch.compile stops at every BatchNorm",
        ),
        ({"optimizer__learning_rate": math.nan}, "must be a number"),
    ],
)
def test_a_broken_rule_is_said_in_one_line(changes: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput) as refused:
        check(run(**changes))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_override_refuses_a_stranger_and_names_the_nearest() -> None:
    with pytest.raises(
        BadInput, match=r"optimizer.learning_rat: no such setting \(did you mean optimizer.learning_rate"
    ):
        override(to_plain(Run()), {"optimizer.learning_rat": 1.0})


def test_plain_and_back_is_the_same_config() -> None:
    config = Tune()
    config.method = {"name": "cycle", "temperature": 0.1}
    assert from_plain(to_plain(config), Tune) == config
    assert from_plain(to_plain(config)).method == config.method  # a poorer schema drops what it does not know


def test_a_signature_names_the_whole_config() -> None:
    plain = to_plain(Run())
    assert signature(plain) == signature(to_plain(Run()))
    assert signature(plain) != signature(override(plain, {"fit.seed": 1}))


def test_nearest_and_flatten() -> None:
    assert nearest("cycel", ["cycle", "isi"]) == " (did you mean cycle?)"
    assert nearest("zzz", ["a", "b"]) == " (one of: a, b)"
    assert flatten({"a": {"b": 1, "c": {}}, "d": 2}) == {"a.b": 1, "a.c": {}, "d": 2}


def test_ranges_of_method_knobs() -> None:
    broken = Run()
    broken.method = {"name": "cycle", "temperature": 0.0}
    assert problems(broken) == ["method.temperature=0.0: must be greater than 0"]
    assert broken_rule("x", True, {"low": 1}) == "x=True: must be a number"


@pytest.mark.parametrize("name", METHOD_CONFIGS)
def test_the_defaults_of_every_method_are_in_their_ranges(name: str) -> None:
    config = Run()
    config.method = default_method_settings(name)
    assert problems(config) == [] and config.method["name"] == name
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
    config = Run()
    config.method = settings
    [found] = problems(config)
    assert found.startswith(sentence) and "\n" not in found


def test_methods_are_configured_without_torch() -> None:
    code = "import sys, raymix.config, raymix.rules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_yaml_of_a_method_repeats_no_setting() -> None:
    files = sorted((folder("configs") / "method").glob("*.yaml"))
    assert [file.stem for file in files] == sorted(METHOD_CONFIGS)
    for file in files:
        loaded = OmegaConf.load(file)
        package = "method" if "study" in loaded or "mixture" in loaded else "_here_"
        assert loaded.defaults == [f"/method_defaults/{file.stem}@{package}"] and "method" not in loaded
        assert not set(loaded) & {item.name for item in dataclasses.fields(METHOD_CONFIGS[file.stem])}
