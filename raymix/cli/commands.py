"""Running a command: composing its settings with Hydra, one-line error messages, and exit codes.

Exit codes: 0 done, 1 unexpected, 2 bad input or config, 3 finished without a usable trial (or clip), 130/143 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from raymix.cli import overrides, setting_conflicts
from raymix.config import (
    METHOD_CONFIGS,
    CompareConfig,
    ConfigError,
    DatasetConfig,
    EvaluateConfig,
    PrepareConfig,
    TrainConfig,
    TuneConfig,
    UnavailableServiceError,
    config_to_plain,
    default_method_settings,
    did_you_mean,
    did_you_mean_setting,
    flatten_config,
    package_data_folder,
    raymix_home,
)
from raymix.config.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_NOTHING_USABLE,
    EXIT_UNEXPECTED_ERROR,
    NoUsableResult,
    _one_line,
)
from raymix.runtime import libraries
from raymix.runtime.storage import disk_full_message, unreachable_storage_message

USER_FILE_SETTINGS = ("search_spaces", "space")  # groups of which a person may have files

ABSOLUTE_PATH_SETTINGS = (
    "home",
    "root",
    "prepared",
    "annotations",
    "splits",
    "regions",
    "faces",
    "weights",
)  # paths that are compared

WORKING_DIR_FILES = "working_dir_files"  # above the copy of --working-dir in which a job of Ray's stands

SCHEMAS = {
    "tune": TuneConfig,
    "train": TrainConfig,
    "prepare": PrepareConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
}


@functools.cache
def _register() -> None:
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
    for method in METHOD_CONFIGS:
        store.store(group="method_defaults", name=method, node=default_method_settings(method))
    for file in sorted(package_data_folder("search_spaces").glob("*.yaml")):
        store.store(group="search_spaces", name=file.stem, node=OmegaConf.load(file))
    OmegaConf.register_new_resolver("raymix_home", raymix_home, replace=True)


def run_command(task: Callable[[Any], int | None], name: str, look: Callable[[], None] = lambda: None) -> None:
    """Run a command: compose `configs/<name>.yaml`, hand the typed config to `task`, exit with its code.

    `look` may refuse words (ConfigError) before they are composed, or add some.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set while the command was loaded (raymix/__init__.py)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(_outcome(task, name, look))


def command_line_settings() -> tuple[list[str], str | None]:
    """The settings of the command line as they were given, and the folder of its --config-dir."""
    given = _parsed(sys.argv[1:])
    return list(given.overrides), given.config_dir


def compose_config(name: str, settings: list[str], config_dir: str | None, home: str) -> Any:
    """The typed config that command `name` would have with these words; ConfigError in one line as at that command itself."""
    return _typed(_compose(name, settings, config_dir), name, settings, home)


def _compose(name: str, settings: list[str], config_dir: str | None, whole: bool = False) -> Any:
    """The config of a command with these words, as OmegaConf; `whole`: with Hydra's own part."""
    _register()
    with _explaining(name, settings):
        ready = _for_hydra(name, settings, config_dir)
        with hydra.initialize_config_dir(str(package_data_folder("configs")), version_base="1.3"):
            return hydra.compose(name, ready, return_hydra_config=whole)


def _for_hydra(name: str, settings: list[str], config_dir: str | None) -> list[str]:
    """The words as Hydra reads them, and where it finds a person's own files."""
    if added := [word for word in settings if word.startswith(("+", "~"))]:
        raise ConfigError(f"{added[0]}: settings can be changed (name=value), not added or removed")
    ready = overrides.to_hydra_overrides(settings, SCHEMAS[name], config_groups(name), method_setting_names(name))
    if config_dir:
        place = os.path.abspath(os.path.expanduser(config_dir))
        if not os.path.isdir(place):
            raise ConfigError(f"--config-dir {config_dir}: no such folder")
        ready.append(f"hydra.searchpath=[{overrides.quote_value('file://' + place)}]")
    return ready


@contextlib.contextmanager
def _explaining(name: str, settings: list[str]) -> Iterator[None]:
    """Inside, what keeps the config of command `name` from being composed becomes ConfigError in one line."""
    try:
        yield
    except (ConfigError, BrokenPipeError):
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, name, settings)) from error
    except (YAMLError, ValueError, OSError) as error:  # a file of the person's own
        raise ConfigError(_one_line(error)) from error


def _outcome(task: Callable[[Any], int | None], name: str, look: Callable[[], None] = lambda: None) -> int:
    def work() -> int:
        look()
        config = config_from_command_line(name)
        return EXIT_DONE if config is None else task(config) or EXIT_DONE

    return exit_code_of(work)


def exit_code_of(work: Callable[[], int]) -> int:
    """The exit code of `work`; every known error is one line on standard error."""
    try:
        code = work()
        sys.stdout.flush()
        return code
    except ConfigError as error:
        return _say(str(error), EXIT_BAD_INPUT)
    except NoUsableResult as error:
        return _say(str(error), EXIT_NOTHING_USABLE)
    except UnavailableServiceError as error:
        return _say(str(error), EXIT_UNEXPECTED_ERROR)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:  # the reader of standard output has ended, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNEXPECTED_ERROR
    except Exception as error:
        if message := libraries.broken_library_message(error):
            return _say(message, EXIT_BAD_INPUT)
        if isinstance(error, OSError) and (message := unreachable_storage_message(error) or disk_full_message(error)):
            return _say(message, EXIT_UNEXPECTED_ERROR)
        raise


def config_from_command_line(name: str) -> Any:
    """The typed config of the command line; None where it asks for text only (--help, --cfg)."""
    given = _parsed(sys.argv[1:])
    setting_conflicts.CONFLICT_CHECKS.get(name, lambda words: None)(given.overrides)
    if given.help:
        from raymix.cli import help_page

        config = _compose(name, given.overrides, given.config_dir, whole=True)
        with _explaining(name, given.overrides):
            text = help_page.format_help(
                name, SCHEMAS[name], config, {group: config_group_options(group) for group in config_groups(name)}
            )
        print(text, flush=True)
        return None
    if given.cfg or given.info or given.hydra_help or given.shell_completion:
        _hydra_answers(name, given)
        return None
    return _typed(_compose(name, given.overrides, given.config_dir), name, given.overrides)


def _hydra_answers(name: str, given: argparse.Namespace) -> None:
    """Let Hydra itself print what it was asked for (--cfg, --info, --hydra-help)."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # its errors come here
    options = [word for word in sys.argv[1:] if word not in given.overrides]
    before = sys.argv[1:]
    with _explaining(name, given.overrides):
        try:
            _register()
            sys.argv[1:] = [*options, *_for_hydra(name, given.overrides, None)]
            hydra.main(version_base="1.3", config_path=str(package_data_folder("configs")), config_name=name)(
                lambda config: None
            )()
        finally:
            sys.argv[1:] = before


def _typed(config: Any, name: str, settings: list[str], home: str | None = None) -> Any:
    """The config as the command's dataclass: everything that refers to other settings resolved, every path expanded."""
    with _explaining(name, settings):
        config.home = overrides.escape_interpolation(_expanded(config.home if home is None else home, absolute=True))
        typed: Any = OmegaConf.to_object(config)
    if not typed.home:
        raise ConfigError("home is empty: name a folder, or leave it out")
    _expand_paths(typed)
    return typed


def _expand_paths(config: Any) -> None:
    """Expand `~` in every path, and make those absolute that are compared with paths of other runs."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            _expand_paths(value)
        elif item.metadata.get("path") and isinstance(value, list):
            setattr(config, item.name, [_expanded(each) for each in value])
        elif item.metadata.get("path") and value and (item.name, value) != ("faces", DatasetConfig().faces):
            setattr(config, item.name, _expanded(value, item.name in ABSOLUTE_PATH_SETTINGS))


def _expanded(path: str, absolute: bool = False) -> str:
    """The path with its `~`; `absolute`: from the root, for it is compared with those of other days.

    In the working directory of a job a relative path stays: that is another copy for each version of what is in it.
    """
    if not path or "://" in path:
        return path
    path = os.path.expanduser(path)
    return path if not absolute or WORKING_DIR_FILES in Path.cwd().parts else os.path.abspath(path)


def _parsed(words: list[str]) -> argparse.Namespace:
    """The options and settings of a command line; ConfigError for options that a command does not take."""
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            given = get_args_parser().parse_intermixed_args(words)
    except SystemExit as stop:
        if not stop.code:
            raise  # --version
        reason = message.getvalue().strip().splitlines()[-1].split("error: ")[-1]
        raise ConfigError(f"{reason}; settings are written name=value, and --help lists them") from None
    if given.multirun:
        raise ConfigError("--multirun: a command runs once; what shall vary belongs in a search space")
    for option in ("config_name", "config_path", "experimental_rerun"):
        if value := getattr(given, option):
            asked = f"--{option.replace('_', '-')} {value}"
            raise ConfigError(f"{asked}: a command has its own configuration; files of yours: --config-dir DIR")
    return given


def _say(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"raymix: {message}", file=sys.stderr, flush=True)
    return code


def _explain(error: BaseException, name: str, settings: list[str]) -> str:
    """Hydra's paragraph as one line with the nearest valid name."""
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Available options in" in text:  # a group option that does not exist
        group, option = lines[0].split("'")[-2].split("/", 1)
        options = [line for line in lines[1:] if not line.startswith(("Available", "Config search", "provider="))]
        return _no_choice(group, option, options)
    if text.startswith("Could not override '"):
        wanted = text.split("'")[1]
        if wanted in USER_FILE_SETTINGS:  # Hydra changes what is there
            return f"{wanted}: no such entry to change; more need a file: --config-dir DIR with DIR/{wanted}/mine.yaml"
        return f"{wanted}: no such setting{_near(wanted, name, settings)}"
    if text.startswith("Ambiguous value"):
        return f"{lines[0]}: give one value, or a list as name=[a,b]"
    full = str(error.__cause__) if "full_key" in str(error.__cause__ or "") else text
    key = full.split("full_key: ")[1].splitlines()[0].strip() if "full_key: " in full else ""
    if "' not in '" in full or "is not in struct" in full:  # a key of a person's own YAML
        return f"{key}: no such setting{_near(key, name, settings)}"
    reason = next((line for line in full.splitlines() if line.strip()), type(error).__name__)
    given = [word for word in settings if "${" in word and (word.startswith(f"{key}=") or not key)]
    if given:
        literal = shlex.quote(overrides.escape_interpolation(given[-1]))
        return f"{given[-1]}: ${{...}} stands for another setting ({reason}); for the text itself write {literal}"
    return f"{key}: {reason}" if key else reason


def _no_choice(group: str, option: str, options: list[str]) -> str:
    """What to say of an option that a group does not have."""
    if group == "dataset" and re.search(r"[/\\.~]", option):
        meant = shlex.join(["dataset=folder", f"dataset.root={option}"])
        return f"{group}={option}: no such choice (did you mean {meant}?)"
    own = f"; your own: --config-dir DIR with DIR/{group}/{option}.yaml" if group in USER_FILE_SETTINGS else ""
    return f"{group}={option}: no such choice{did_you_mean(option, options)}{own}"


def _near(wanted: str, name: str, settings: list[str]) -> str:
    """A suggestion for a setting that is not there; a setting of a method alone is looked for in the chosen one."""
    if not wanted.startswith("method."):
        return did_you_mean_setting(wanted, [*flatten_config(config_to_plain(SCHEMAS[name]())), *config_groups(name)])
    chosen = dict(word.split("=", 1) for word in settings if "=" in word).get("method") or default_option(
        name, "method"
    )
    own = method_setting_names(name, chosen)
    hint = did_you_mean_setting(wanted, own)
    return hint or f" of method={chosen} (it has {', '.join(own)})" if own else ""


@functools.cache
def _defaults(name: str) -> dict[str, str]:
    """The config groups of a command in their order, each with the option that is chosen by default."""
    loaded: Any = OmegaConf.load(package_data_folder("configs") / f"{name}.yaml")
    entries: Any = OmegaConf.to_container(loaded.defaults, resolve=False)
    found = {str(key): str(option) for entry in entries if isinstance(entry, dict) for key, option in entry.items()}
    return {key.removeprefix("optional "): option for key, option in found.items() if not key.startswith("override ")}


def config_groups(name: str) -> list[str]:
    """The config groups of a command."""
    return list(_defaults(name))


def config_group_options(group: str) -> list[str]:
    """The options of a config group that come with raymix."""
    own = package_data_folder("search_spaces") if group == "search_spaces" else package_data_folder("configs") / group
    return sorted(file.stem for file in own.glob("*.yaml"))


def default_option(name: str, group: str) -> str:
    """The option of a group that a command has by default."""
    return _defaults(name).get(group, "")


def method_setting_names(name: str, method: str = "*") -> list[str]:
    """The settings of a method, or of all, for a command that has them."""
    if "method" not in config_groups(name):
        return []
    chosen = METHOD_CONFIGS if method == "*" else [method] if method in METHOD_CONFIGS else []
    return list(dict.fromkeys(f"method.{key}" for name in chosen for key in default_method_settings(name)))
