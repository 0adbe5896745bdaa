"""What all doors share: Hydra at the front; one line and an honest exit code at the back.

Exit codes: 0 done, 1 unexpected, 2 bad input or config, 3 finished without a usable trial (or clip), 130/143 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from raymix.config import BadInput, Evaluate, Prepare, Run, Tune, flatten, nearest, to_plain

DONE, UNEXPECTED, BAD_INPUT, NOTHING_USABLE = 0, 1, 2, 3


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


def _register() -> None:
    store = ConfigStore.instance()
    for name, schema in {"tune": Tune, "train": Run, "prepare": Prepare, "evaluate": Evaluate}.items():
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


def enter(task: Callable[[Any], int | None], name: str) -> None:
    """Run a door: compose `configs/<name>.yaml`, hand the typed config to `task`, exit with its code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who say them in one line
    sys.exit(_outcome(task, name))


def _outcome(task: Callable[[Any], int | None], name: str) -> int:
    configs: list[Any] = []  # stays empty for --help and --cfg, which Hydra answers itself
    try:
        _register()
        if added := [word for word in sys.argv[1:] if word.startswith(("+", "~"))]:
            raise BadInput(f"{added[0]}: settings can be changed (name=value), not added or removed")
        hydra.main(version_base="1.3", config_path=str(folder("configs")), config_name=name)(configs.append)()
        if not configs:
            return DONE
        with refusing():
            typed = OmegaConf.to_object(configs[0])
        return task(typed) or DONE
    except BadInput as error:
        return _say(str(error), BAD_INPUT)
    except Nothing as error:
        return _say(str(error), NOTHING_USABLE)
    except (HydraException, OmegaConfBaseException) as error:
        return _say(_explain(error, name), BAD_INPUT)
    except KeyboardInterrupt:
        return _say("interrupted", 130)


def _say(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"raymix: {message}", file=sys.stderr, flush=True)
    return code


def _explain(error: BaseException, name: str) -> str:
    """Hydra's paragraph as one line with the nearest valid name."""
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Available options in" in text:  # a group option that does not exist
        group, option = lines[0].split("'")[-2].rsplit("/", 1)
        options = [line for line in lines[1:] if not line.startswith(("Available", "Config search", "provider="))]
        return f"{group}={option}: no such choice{nearest(option, options)}"
    if "is not in struct" in text or "not in 'structured" in text or "not in '" in text:
        wanted = text.split("'")[1] if "Could not override '" in text else lines[-1].split("full_key: ")[-1]
        return f"{wanted}: no such setting{nearest(wanted, _names(name))}"
    if "Could not override" in text and error.__cause__ is not None:
        wanted = text.split("'")[1]
        if wanted not in _names(name) and "Value" not in str(error.__cause__):
            return f"{wanted}: no such setting{nearest(wanted, _names(name))}"
    cause = error.__cause__ if "full_key" in str(error.__cause__ or "") else None
    full = str(cause or error)
    key = full.split("full_key: ")[1].splitlines()[0].strip() + ": " if "full_key: " in full else ""
    return key + full.strip().splitlines()[0]


def _names(name: str) -> list[str]:
    schema = {"tune": Tune, "train": Run, "prepare": Prepare, "evaluate": Evaluate}[name]
    method = (
        {"method": {"temperature": 0, "embedding_size": 0, "pool": "", "name": ""}} if name in ("tune", "train") else {}
    )
    return [*flatten({**to_plain(schema()), **method}), "dataset", "method", "search", "cluster", "search_spaces"]
