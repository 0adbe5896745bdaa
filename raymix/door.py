"""What all doors share: Hydra at the front; one line and an honest exit code at the back.

Exit codes: 0 done, 1 unexpected, 2 bad input or config, 3 finished without a usable trial (or clip), 130/143 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from raymix.config import (
    BadInput,
    Compare,
    Dataset,
    Evaluate,
    Prepare,
    Run,
    Tune,
    Unavailable,
    flatten,
    nearest,
    to_plain,
)
from raymix.storage import no_room, unreachable

DONE, UNEXPECTED, BAD_INPUT, NOTHING_USABLE = 0, 1, 2, 3
OWN_FILES = ("search_spaces", "space")  # groups of which a person may have files
PLACES = (  # settings that name places, each but home; those without "://" are of this machine
    "dataset.root", "dataset.prepared", "dataset.annotations", "dataset.splits", "dataset.regions", "dataset.faces",
    "encoder.weights", "prepared",
)  # fmt: skip
SHIPPED = "working_dir_files"  # above the copy of --working-dir in which a job of Ray's stands
SCHEMAS = {"tune": Tune, "train": Run, "prepare": Prepare, "evaluate": Evaluate, "compare": Compare}


class Nothing(Exception):
    """The work ended without anything usable (exit code 3)."""


def folder(name: str) -> Path:
    """`configs` or `search_spaces`: beside the package in a checkout, inside it when installed as a wheel."""
    package = Path(__file__).resolve().parent
    beside = package.parent / name
    return beside if (package.parent / "pyproject.toml").exists() and beside.is_dir() else package / name


def home() -> str:
    """Where clips and studies live unless told otherwise: $RAYMIX_HOME, else ~/raymix; never the working directory."""
    return os.environ.get("RAYMIX_HOME") or os.path.join(os.path.expanduser("~"), "raymix")


@functools.cache
def _register() -> None:
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
    for file in sorted(folder("search_spaces").glob("*.yaml")):
        store.store(group="search_spaces", name=file.stem, node=OmegaConf.load(file))
    OmegaConf.register_new_resolver("raymix_home", home, replace=True)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Inside, a ValueError is the person's to mend: it becomes BadInput (exit code 2, one line)."""
    try:
        yield
    except BadInput:
        raise
    except (ValueError, FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise BadInput(_one_line(error)) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def enter(task: Callable[[Any], int | None], name: str, look: Callable[[], None] = lambda: None) -> None:
    """Run a door: compose `configs/<name>.yaml`, hand the typed config to `task`, exit with its code.

    `look` may refuse words (BadInput) before they are composed, or add some.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who say them in one line
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set while the command was loaded (raymix/__init__.py)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(_outcome(task, name, look))


def words() -> tuple[list[str], str | None]:
    """The settings of the command line as they were given, and the folder of its --config-dir."""
    given = get_args_parser().parse_intermixed_args(_sorted_words(sys.argv[1:]))
    return list(given.overrides), given.config_dir


def composed(name: str, settings: list[str], config_dir: str | None, home: str) -> Any:
    """The typed config that door `name` would have with these words; BadInput in one line as at that door itself."""
    _register()
    path = [f"hydra.searchpath=['file://{os.path.abspath(config_dir)}']"] if config_dir else []
    with _explaining(name):
        with hydra.initialize_config_dir(str(folder("configs")), version_base="1.3"):
            config = hydra.compose(name, [*settings, *path])
        config.home = home
        _settle(config)
        with refusing():
            return OmegaConf.to_object(config)


@contextlib.contextmanager
def _explaining(name: str) -> Iterator[None]:
    """Inside, what keeps the config of door `name` from being composed becomes BadInput in one line."""
    try:
        yield
    except BadInput:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise BadInput(_explain(error, name)) from error
    except (YAMLError, ValueError, OSError) as error:  # a file of the person's own
        raise BadInput(_one_line(error)) from error


def _outcome(task: Callable[[Any], int | None], name: str, look: Callable[[], None] = lambda: None) -> int:
    try:
        _register()
        look()
        config = _compose(name)
        if config is None:
            return DONE
        with refusing():
            typed = OmegaConf.to_object(config)
        if not config.home:
            raise BadInput("home is empty: name a folder, or leave it out")
        return task(typed) or DONE
    except BadInput as error:
        return _say(str(error), BAD_INPUT)
    except Nothing as error:
        return _say(str(error), NOTHING_USABLE)
    except Unavailable as error:
        return _say(str(error), UNEXPECTED)
    except OSError as error:
        if not (said := unreachable(error) or no_room(error)):
            raise
        return _say(said, UNEXPECTED)
    except KeyboardInterrupt:
        return _say("interrupted", 130)


def _compose(name: str) -> Any:
    """The config of the command line; None where Hydra has answered itself (--help, --cfg)."""
    configs: list[Any] = []
    with _explaining(name):
        sys.argv[1:] = _sorted_words(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(folder("configs")), config_name=name)(configs.append)()
        if configs:
            if configs[0].get("home") and "://" not in configs[0].home:  # workers elsewhere stand in other folders
                configs[0].home = os.path.abspath(os.path.expanduser(configs[0].home))
            _settle(configs[0])
    return configs[0] if configs else None


def _settle(config: Any) -> None:
    """Resolve what refers to other settings, and make every path absolute: it is compared with those of other days.

    In the working directory of a job a relative path stays: that is another copy for each version of what is in it.
    """
    OmegaConf.resolve(config)
    shipped = SHIPPED in Path.cwd().parts
    for name in PLACES:
        group, _, field = name.rpartition(".")
        of = config.get(group) if group else config
        path = of.get(field) if of is not None and field in of else None
        word = name == "dataset.faces" and path == Dataset().faces  # no path
        if path and "://" not in path and not word:
            path = os.path.expanduser(path)
            of[field] = path if shipped else os.path.abspath(path)


def _sorted_words(words: list[str]) -> list[str]:
    """The words with options before settings, as Hydra wants them; BadInput for what a door does not take."""
    words = [_homely(word) for word in words]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            given = get_args_parser().parse_intermixed_args(words)
    except SystemExit as stop:
        if not stop.code:
            raise  # --version
        reason = said.getvalue().strip().splitlines()[-1].split("error: ")[-1]
        raise BadInput(f"{reason}; settings are written name=value, and --help lists them") from None
    if given.multirun:
        raise BadInput("--multirun: a door runs once; what shall vary belongs in a search space")
    if added := [word for word in given.overrides if word.startswith(("+", "~"))]:
        raise BadInput(f"{added[0]}: settings can be changed (name=value), not added or removed")
    return [word for word in words if word not in given.overrides] + given.overrides


def _homely(word: str) -> str:
    """`dataset.root=~/x` in quotes, where Hydra takes the ~ for a letter; no shell puts a folder in its place."""
    name, _, path = word.partition("=")
    return f"{name}={json.dumps(path, ensure_ascii=False)}" if name in ("home", *PLACES) and path[:1] == "~" else word


def _say(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"raymix: {message}", file=sys.stderr, flush=True)
    return code


def _explain(error: BaseException, name: str) -> str:
    """Hydra's paragraph as one line with the nearest valid name."""
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not of the form name=value ({lines[0]})"
    if "Available options in" in text:  # a group option that does not exist
        group, option = lines[0].split("'")[-2].rsplit("/", 1)
        options = [line for line in lines[1:] if not line.startswith(("Available", "Config search", "provider="))]
        own = f"; your own: --config-dir DIR with DIR/{group}/{option}.yaml" if group in OWN_FILES else ""
        return f"{group}={option}: no such choice{nearest(option, options)}{own}"
    if text.startswith("Could not override '"):
        wanted = text.split("'")[1]
        if wanted in OWN_FILES:  # Hydra changes what is there
            return f"{wanted}: no such entry to change; more need a file: --config-dir DIR with DIR/{wanted}/mine.yaml"
        return f"{wanted}: no such setting{nearest(wanted, _names(name))}"
    if text.startswith("Ambiguous value"):
        return f"{lines[0]}: give one value, or a list as name=[a,b]"
    full = str(error.__cause__) if "full_key" in str(error.__cause__ or "") else text
    key = full.split("full_key: ")[1].splitlines()[0].strip() if "full_key: " in full else ""
    if "' not in '" in full or "is not in struct" in full:  # a key of a person's own YAML
        return f"{key}: no such setting{nearest(key, _names(name))}"
    reason = next((line for line in full.splitlines() if line.strip()), type(error).__name__)
    return f"{key}: {reason}" if key else reason


def _knobs(file: Path) -> Any:
    """The knobs in a method's YAML; one that also sets its study's metric is written for the whole config."""
    loaded: Any = OmegaConf.load(file)
    return loaded.get("method", loaded)


def _names(name: str) -> list[str]:
    """Every setting of a door, and every group."""
    defaults = OmegaConf.load(folder("configs") / f"{name}.yaml").defaults
    groups = [str(key) for entry in defaults if not isinstance(entry, str) for key in entry]
    nested = to_plain(SCHEMAS[name]())
    if "method" in groups:
        nested["method"] = {str(key): "" for file in folder("configs").glob("method/*.yaml") for key in _knobs(file)}
    return [*flatten(nested), *(group for group in groups if not group.startswith("override "))]
