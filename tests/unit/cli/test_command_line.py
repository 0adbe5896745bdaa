"""The command line: one entry for all commands, help without heavy imports, values as typed, suggestions, paths."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raymix import cli, leaderboard
from raymix.cli import commands, help_page, overrides, recipes
from raymix.config import (
    METHOD_CONFIGS,
    ConfigError,
    config_to_plain,
    did_you_mean,
    did_you_mean_setting,
    flatten_config,
)
from raymix.runtime import libraries

ROOT = Path(commands.__file__).resolve().parents[2]
HEAVY = {"torch", "torchvision", "torchaudio", "ray", "matplotlib", "optuna", "pandas", "av", "cv2", "scipy"}
COMPOSED = tuple(commands.SCHEMAS)


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    known |= {"PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=known, timeout=300)


# one entry for all commands


def test_the_console_script_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"raymix": "raymix.cli:main"}


@pytest.mark.parametrize("words", [(), ("--help",), ("help",)])
def test_alone_it_lists_the_commands(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(sys, "argv", ["raymix", *words])
        cli.main()
    out = capsys.readouterr().out
    assert stop.value.code == 0 and all(f"\n  {name} " in out for name in cli.COMMANDS)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(("word", "near"), [("tnue", "tune"), ("Evaluate", "evaluate"), ("leader", "leaderboard")])
def test_an_unknown_command_names_the_nearest(word: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(sys, "argv", ["raymix", word, "x=1"])
        cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"raymix: {word}: no such command (did you mean {near}?)\n"


@pytest.mark.parametrize("start", [("-m", "raymix", "tune"), ("-m", "raymix.tune")])
def test_every_start_gives_the_same_page(start: tuple[str, ...]) -> None:
    done = python(*start, "--help", RAYMIX_HOME="/x")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == python("-c", "from raymix.cli import main; main()", "tune", "--help", RAYMIX_HOME="/x").stdout


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["/env/bin/raymix", "tune", "study.name=a b"], "raymix tune 'study.name=a b'"),
        (["/src/raymix/__main__.py", "train"], "python -m raymix train"),
    ],
)
def test_the_line_that_resumes_starts_the_same_way(argv: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(cli, "_started", [])
    monkeypatch.setattr(cli, "run_named_command", lambda name: sys.exit(0))
    with pytest.raises(SystemExit):
        cli.main()
    from raymix.search import runner

    assert runner.command_line() == told


def test_the_line_that_resumes_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/src/raymix/compare.py", "seeds=0,1"])
    assert [*cli.program_words(), *sys.argv[1:]] == ["python", "-m", "raymix.compare", "seeds=0,1"]


# help


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_and_the_first_line_need_no_heavy_import(name: str) -> None:
    """All that runs before a command's own module is imported."""
    code = (
        "import importlib, sys\nfrom raymix import cli\nfrom raymix.cli import commands\n"
        f"sys.argv = ['raymix', '{name}', *sys.argv[1:]]\n"
        "real = importlib.import_module\n"
        "def stop(module, *more):\n"
        f"    if module == 'raymix.{name}' != 'raymix.leaderboard': sys.exit(0)\n"
        "    return real(module, *more)\n"
        "importlib.import_module = stop\n"
        "try: cli.main()\n"
        "finally: print('HEAVY', sorted(set(sys.modules) & set("
        + repr(sorted(HEAVY - ({"scipy"} if name == "leaderboard" else set())))
        + ")))\n"
    )
    for words in (("--help",), () if name == "leaderboard" else ("study=x",) if name == "evaluate" else ()):
        done = python("-c", code, *words, RAYMIX_HOME="/nowhere/raymix")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith("HEAVY []\n"), done.stdout[-300:]
        if not words and name != "leaderboard":
            assert done.stdout.startswith(f"raymix {name}: ") and "loading" in done.stdout


@pytest.mark.parametrize("name", COMPOSED)
def test_every_setting_of_a_command_is_on_its_page(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMIX_HOME", "/x")
    page = printed(name)
    assert max(map(len, page.splitlines())) <= 80
    hidden = help_page.WITHOUT_EFFECT.get(name, ())
    for setting, kind, item in overrides.schema_fields(commands.SCHEMAS[name]):
        if kind in (overrides.SECTION, overrides.MAPPING):
            continue
        assert len(item.metadata["help"]) > 10, setting
        for_others = item.metadata.get("datasets") and "demo" not in item.metadata["datasets"]
        assert (f"\n  {setting}=" in page) is (setting not in hidden and not for_others), setting


def test_the_help_of_the_leaderboard_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMIX_HOME", "/x")
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, leaderboard.build_parser().format_help().splitlines())) <= 80


def printed(name: str, *words: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *words, "--help"])
        said: list[str] = []
        patch.setattr("builtins.print", lambda text, **how: said.append(text))
        recipes.complete_command_line(name)
        assert commands.config_from_command_line(name) is None
    return said[0]


def test_a_page_shows_meaning_range_and_the_value_in_force() -> None:
    page = " ".join(printed("tune", "method=ots", "training.batch_size=36", "dataset=music").split())
    assert "training.batch_size=36 clips in a batch, over all workers together [at least 2]" in page
    assert "method.loss=bce binary cross-entropy of pairs, or InfoNCE over the batch [bce, infonce]" in page
    assert "dataset.subset=solo" in page and "dataset.videos=" not in page and "method.pool=" not in page
    assert "optimizer.learning_rate=0.001 learning rate of Adam [above 0, at most 1]" in page
    assert "knobs=" not in page and "space=" not in page.replace("search_spaces=", "")
    assert page.count("ots*") == 2 and "music*" in page and "small*" in page  # the method and its search space


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("evaluate", "dataset="),
        ("prepare", "method="),
        ("prepare", "cluster="),
        ("train", "search="),
        ("compare", "method="),
    ],
)
def test_groups_without_effect_are_not_listed(name: str, absent: str) -> None:
    assert f"\n  {absent}" not in printed(name)


def test_every_setting_of_a_method_has_a_meaning() -> None:
    known = {name.partition(".")[2] for name in commands.method_setting_names("tune")} - {"name"}
    fields = [item for schema in METHOD_CONFIGS.values() for item in dataclasses.fields(schema)]
    assert known == {item.name for item in fields} and all(item.metadata["help"] for item in fields)


def test_the_datasets_that_read_a_setting_are_those_of_the_importers() -> None:
    from raymix.config import DatasetConfig
    from raymix.config.schema import DATASETS
    from raymix.data.importers.registry import load_importer, optional_settings

    told = {item.name: set(item.metadata["datasets"]) for item in dataclasses.fields(DatasetConfig)}
    for name in optional_settings() - {"allow_leaks"}:  # which counts for all, and says how clips were made for some
        assert told[name] == {each for each in DATASETS if name in load_importer(each).OPTIONAL_SETTINGS}, name
    assert not any(of for name, of in told.items() if name not in optional_settings())


def test_a_reader_that_ends_early_is_no_error() -> None:
    line = f"{shlex.quote(sys.executable)} -m raymix tune --help | head -n 2; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stderr == "" and done.stdout.splitlines()[-1] in ("0", "1")


def test_help_is_quick() -> None:
    """CPU seconds of the process and its imports, the best of three."""
    code = "import resource, sys\nfrom raymix import cli\nsys.argv = ['raymix', 'tune', '--help']\ntry: cli.main()\nfinally: "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, file=sys.stderr)"
    assert min(float(python("-c", code).stderr) for _ in range(3)) < 3.0


# a broken set of compiled libraries

BROKEN = {
    "torchaudio": ("raise OSError('Could not load this library: /lib/libtorchaudio.so')", "does not load with torch "),
    "torch": (
        "raise ImportError('libcudart.so.13: cannot open shared object file')",
        "does not load (libcudart.so.13: ",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("library", BROKEN)
@pytest.mark.parametrize(
    "words", [("tune",), ("train",), ("compare", "systems=cycle"), ("prepare",), ("evaluate", "study=x")]
)
def test_a_broken_library_is_said_in_one_line(library: str, words: tuple[str, ...], tmp_path: Path) -> None:
    error, says = BROKEN[library]
    (tmp_path / library).mkdir()
    (tmp_path / library / "__init__.py").write_text(error)
    done = python("-m", "raymix", *words, PYTHONPATH=f"{tmp_path}:{ROOT}", RAYMIX_HOME=str(tmp_path / "home"))
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"raymix: {library} ")
    assert says in done.stderr and done.stderr.endswith(": pip install -c constraints.txt .\n")
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_a_worker_says_it_in_one_line_too(tmp_path: Path) -> None:
    (tmp_path / "torchaudio.py").write_text(BROKEN["torchaudio"][0])
    done = python("-c", "import raymix.training.worker", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert "raymix.runtime.libraries.BrokenInstallError: torchaudio" in done.stderr.splitlines()[-1]


def test_other_errors_are_not_taken_for_a_broken_library() -> None:
    for error in (
        OSError("torchaudio"),
        ImportError("torch"),
        RuntimeError("torch"),
        ModuleNotFoundError(name="numpy"),
    ):
        assert libraries.broken_library_message(error) == ""
    assert libraries.broken_library_message(ModuleNotFoundError(name="torchaudio")).startswith("torchaudio 2")


@pytest.mark.slow
def test_the_compiled_libraries_load_together() -> None:
    done = python("-c", "import torch, torchvision, torchaudio; torchvision.ops.nms; torchaudio.functional")
    versions = ", ".join(f"{name} {libraries._version(name)}" for name in libraries.TRIO)
    assert done.returncode == 0, f"{versions} do not load together: {done.stderr.strip().splitlines()[-1]}"


# values

ODD = [
    "Bücher",
    "epoch=9",
    "a, b",
    "#",
    "(",
    "a (1)",
    "&",
    "a&b",
    "it's",
    '"',
    "'",
    "[",
    "]",
    "{a",
    "a}",
    "$",
    "$HOME",
    "a:b",
    "back\\slash",
    "end\\",
    "a\\'b",
    "x=/y=1",
    "!",
    "*",
    "?",
    "@",
    "100%",
    "007",
    "1e3",
    "true",
    "-1",
    "choice(a)",
    "a;b",
    "two  spaces",
    " lead",
    "tab\tbed",
    "日本",
    "é",
    "[a]",
    "a]b",
    "|",
    "<>",
    "`",
    "^",
    "epoch=9-score=.7",
    "{}",
    "null ",
    "nan",
]
TEXTS = {
    "tune": (
        "dataset.root",
        "dataset.prepared",
        "study.name",
        "study.metric",
        "encoder.weights",
        "dataset.splits",
    ),
    "train": ("dataset.annotations", "evaluation.protocol"),
    "prepare": ("inspect", "output", "dataset.regions"),
    "evaluate": ("checkpoint", "predictions", "export", "pair_list", "study", "output", "comparison", "prepared"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_arrives_as_typed(name: str) -> None:
    """Every odd value through every setting's word, and each once through the whole configuration."""
    paths = {
        setting for setting, _, item in overrides.schema_fields(commands.SCHEMAS[name]) if item.metadata.get("path")
    }
    typed = {setting: [f"/x/{odd}" if setting in paths else odd for odd in ODD] for setting in TEXTS[name]}
    for setting, values in typed.items():
        for value in values:
            found = overrides.parse_override(
                overrides.to_hydra_overrides([f"{setting}={value}"], commands.SCHEMAS[name], [])[0]
            )
            assert found is not None and found.value() == value, (setting, value)
    for first in range(0, len(ODD), len(typed)):
        chosen = {setting: values[(first + at) % len(ODD)] for at, (setting, values) in enumerate(typed.items())}
        made = flatten_config(
            config_to_plain(commands.compose_config(name, [f"{k}={v}" for k, v in chosen.items()], None, "/home"))
        )
        assert {setting: made[setting] for setting in chosen} == chosen


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1))
@example("\\'")
@example("'\\")
@example("'a' 'b'")
def test_any_text_reaches_hydra_as_it_is(text: str) -> None:
    word = overrides.to_hydra_overrides([f"study.name={text}"], commands.SCHEMAS["tune"], [])[0]
    found = overrides.parse_override(word)
    assert found is not None
    if not overrides._is_quoted(text) and text != "null":
        assert found.value() == text


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("systems=cycle", ["cycle"]),
        ("systems=cycle,ots", ["cycle", "ots"]),
        ("systems=[cycle, ots]", ["cycle", "ots"]),
        ("systems=['cycle','ots']", ["cycle", "ots"]),
        ("seeds=3", [3]),
        ("seeds=[0,1]", [0, 1]),
        ("seeds=0, 1", [0, 1]),
    ],
)
def test_lists_are_read_in_any_spelling(word: str, value: list[Any]) -> None:
    assert (
        flatten_config(config_to_plain(commands.compose_config("compare", [word], None, "/home")))[
            word.partition("=")[0]
        ]
        == value
    )


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("Bücher.npz,b(1).npz", ["Bücher.npz", "b(1).npz"]),
        ("epoch=9.npz#Ours, b.npz", ["epoch=9.npz#Ours", "b.npz"]),
        ("['a, b.npz', c.npz]", ["a, b.npz", "c.npz"]),
        ("it's.npz,b.npz", ["it's.npz", "b.npz"]),
        ("[007,b]", ["007", "b"]),
    ],
)
def test_names_of_files_in_lists(value: str, found: list[str]) -> None:
    assert commands.compose_config("evaluate", [f"compare={value}"], None, "/home").compare == found


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("study.name='two words'", "two words"),
        ('study.name="it is"', "it is"),
        ("study.name=${dataset.name}-${method.name}-x", "demo-cycle-x"),
        ("study.name=\\${x}", "${x}"),
        ("study.name=", ""),
    ],
)
def test_what_is_quoted_or_refers_to_others_still_works(word: str, value: str) -> None:
    assert commands.compose_config("tune", [word], None, "/home").study.name == value


def test_the_quoted_form_in_a_refusal_is_the_one_that_works() -> None:
    with pytest.raises(ConfigError) as refused:
        commands.compose_config("tune", ["dataset.root=/a/${b}/c"], None, "/home")
    (word,) = shlex.split(str(refused.value).rpartition(" write ")[2])
    assert commands.compose_config("tune", [word], None, "/home").dataset.root == "/a/${b}/c"


def test_a_folder_of_ones_own_may_have_any_name(tmp_path: Path) -> None:
    own = tmp_path / "mine (ü, 2=1)" / "search_spaces"
    own.mkdir(parents=True)
    (own / "my space.yaml").write_text("space: {mixture.k: {int: [2, 3]}}")
    made = commands.compose_config("tune", ["search_spaces=my space"], str(own.parent), "/home")
    assert made.search_spaces["space"] == {"mixture.k": {"int": [2, 3]}}


# paths


@pytest.mark.parametrize("name", COMPOSED)
def test_every_path_is_expanded(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = [
        (setting, kind)
        for setting, kind, item in overrides.schema_fields(commands.SCHEMAS[name])
        if item.metadata.get("path")
    ]
    assert found
    words = [f"{setting}=~/a/{setting}" for setting, _ in found if setting != "home"]
    flat = flatten_config(config_to_plain(commands.compose_config(name, words, None, "~/a/home")))
    for setting, kind in found:
        path = f"{tmp_path}/a/{setting}"
        assert flat[setting] == ([path] if kind == overrides.TEXTS else path)


def test_the_home_of_the_environment_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from raymix import leaderboard

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAYMIX_HOME", "~/there")
    assert leaderboard.build_parser().parse_args([]).root == f"{tmp_path}/there"
    monkeypatch.setattr(sys, "argv", ["tune.py"])
    assert commands.config_from_command_line("tune").home == f"{tmp_path}/there"


# suggestions

TYPOS = {
    "training.epohcs": "training.epochs",
    "epochs": "training.epochs",
    "batch": "training.batch_size",
    "batch_size": "training.batch_size",
    "lr": "optimizer.learning_rate",
    "learning_rate": "optimizer.learning_rate",
    "learning-rate": "optimizer.learning_rate",
    "optimizer.lr": "optimizer.learning_rate",
    "temperature": "method.temperature",
    "tau": "method.temperature",
    "seed": "study.seed",
    "trials": "study.n_trials",
    "n_trials": "study.n_trials",
    "num_samples": "study.n_trials",
    "gpus": "cluster.gpus_per_worker",
    "workers": "cluster.workers",
    "num_workers": "cluster.workers",
    "max_epochs": "training.epochs",
    "trainer.max_epochs": "training.epochs",
    "name": "study.name",
    "root": "dataset.root",
    "serach": "search",
    "clsuter": "cluster",
    "optimzer.weight_decay": "optimizer.weight_decay",
    "stduy.seed": "study.seed",
    "model": "method",
    "grace_period": "search.grace_period",
    "image_size": "encoder.image_size",
    "output": "home",
    "mixture.crpo": "mixture.crop",
    "k": "mixture.k",
    "precison": "training.precision",
    "weight": "encoder.weights",
    "mixture.kk": "mixture.k",
    "frobnicate": None,
    "mixture.foo": None,
    "xyz": None,
    "optimizer.adam": None,
    "resume": None,
    "verbose": None,
    "training.x": None,
    "study.flavour": None,
    "a": None,
    "logger": None,
}


@pytest.mark.parametrize(("typed", "meant"), TYPOS.items())
def test_a_suggestion_is_near_or_not_made(typed: str, meant: str | None) -> None:
    with pytest.raises(ConfigError) as refused:
        commands.compose_config("tune", [f"{typed}=1"], None, "/home")
    assert str(refused.value) == f"{typed}: no such setting" + (f" (did you mean {meant}?)" if meant else "")


@pytest.mark.parametrize("name", COMPOSED)
def test_every_alias_names_a_setting_that_some_command_has(name: str) -> None:
    known = {setting for each in COMPOSED for setting, *_ in overrides.schema_fields(commands.SCHEMAS[each])}
    known |= {group for each in COMPOSED for group in commands.config_groups(each)} | set(
        commands.method_setting_names("tune")
    )
    assert {target for several in overrides.ALIASES.values() for target in several} <= known
    assert not any(
        alias in {setting for setting, *_ in overrides.schema_fields(commands.SCHEMAS["tune"])}
        for alias in overrides.ALIASES
    )


@pytest.mark.parametrize(
    ("typed", "names", "near"),
    [
        ("cycel", ["cycle", "isi", "permute"], "cycle"),
        ("asah", ["asha", "fifo", "median", "pbt"], "asha"),
        ("maximum", ["max", "min"], "max"),
        ("Demo", ["demo", "folder"], "demo"),
        ("multi gpu", ["multi_gpu", "one_gpu"], "multi_gpu"),
        ("leader", ["leaderboard", "tune"], "leaderboard"),
        ("xyz", [f"study-{n}" for n in range(20)], None),
        ("mine", ["demo-cycle", *(f"study-{n}" for n in range(20))], None),
    ],
)
def test_nearest(typed: str, names: list[str], near: str | None) -> None:
    assert did_you_mean(typed, names) == (f" (did you mean {near}?)" if near else "")


def test_nearest_setting_prefers_the_section_that_was_typed() -> None:
    names = ["dataset.seed", "training.seed", "study.seed", "training.epochs"]
    assert did_you_mean_setting("trainig.seed", names) == " (did you mean training.seed?)"
    assert did_you_mean_setting("study.sede", names) == " (did you mean study.seed?)"
    assert did_you_mean_setting("study.sort", names) == did_you_mean_setting("x", []) == ""


# the first line


@pytest.mark.parametrize("name", COMPOSED)
def test_the_first_line_comes_before_the_heavy_imports(name: str) -> None:
    """CPU time is measured, for the machine may be busy; the library that is waited for takes seconds."""
    words = {"compare": ["systems=cycle"], "evaluate": ["study=nowhere"]}.get(name, [])
    began = time.monotonic()
    known = {**os.environ, "PYTHONPATH": str(ROOT), "RAYMIX_HOME": "/proc/x"}
    with subprocess.Popen(
        [sys.executable, "-m", f"raymix.{name}", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=known
    ) as child:
        assert child.stdout is not None
        first = child.stdout.readline().decode()
        cpu = sum(map(int, Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        child.kill()
    assert first.startswith(f"raymix {name}: ") and first.endswith(" ...\n"), (first, time.monotonic() - began)
    assert cpu / os.sysconf("SC_CLK_TCK") < 2.0
