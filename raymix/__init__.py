"""raymix: hyper-parameter search on a Ray cluster for sound source localization.

The names in `__all__` are the public Python interface. They are imported when they are first used, so `import raymix`
imports neither torch nor Ray.
"""

import importlib
import os
import signal
import sys
from typing import Any

__version__ = "0.1.0"

_MODULES = {  # public name -> the module that defines it
    "METHODS": "raymix.methods",
    "PROTOCOLS": "raymix.metrics.protocols",
    "ConfigError": "raymix.config",
    "EvaluationReport": "raymix.reporting.report",
    "EvaluationScenes": "raymix.evaluation.validation",
    "EventLog": "raymix.tracking.event_log",
    "HeatMaps": "raymix.data.batches",
    "Method": "raymix.methods",
    "SceneGroundTruth": "raymix.metrics.ground_truth",
    "build_method": "raymix.methods",
    "compose_scenes": "raymix.data.scenes",
    "get_protocol": "raymix.metrics.protocols",
    "load_checkpoint": "raymix.tracking.checkpoint",
    "load_method": "raymix.evaluation.candidates",
    "log_mel_spectrogram": "raymix.data.audio",
    "parse_search_space": "raymix.search.space_file",
    "predict_scene_heatmaps": "raymix.evaluation.validation",
    "prepare_dataset": "raymix.data.preparation.pipeline",
    "read_clips": "raymix.data.prepared",
    "score_maps": "raymix.metrics.scoring",
    "summarize_scores": "raymix.metrics.scoring",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'raymix' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if (
    sys.argv
    and (sys.argv[0] == "-m" or os.path.basename(sys.argv[0]) == "raymix")
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):  # a command is being loaded: until it runs (`commands.run_command`), Ctrl-C ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
