"""What a run is: typed settings with their ranges, the rules between them, and the name of what was misspelt.

Every field of the schema is a key of the command line (`fit.epochs=20`), a name that a search space may search, and a column
of the leaderboard: one name all the way, and the number in a config is the number in use. `method` alone has no dataclass:
its keys are those of `configs/method/NAME.yaml`, which are the keywords of the method's constructor.
"""

from raymix.config.plain import (
    BadInput,
    Unavailable,
    flatten,
    folder,
    from_plain,
    nearest,
    nearest_setting,
    override,
    raymix_home,
    signature,
    to_plain,
)
from raymix.config.schema import (
    Cluster,
    Compare,
    Data,
    Dataset,
    Encoder,
    Evaluate,
    Evaluation,
    Fit,
    Mixture,
    Optimizer,
    Prepare,
    Run,
    Search,
    Study,
    Tune,
    chosen,
    ranged,
    setting,
)

__all__ = [
    "BadInput",
    "Cluster",
    "Compare",
    "Data",
    "Dataset",
    "Encoder",
    "Evaluate",
    "Evaluation",
    "Fit",
    "Mixture",
    "Optimizer",
    "Prepare",
    "Run",
    "Search",
    "Study",
    "Tune",
    "Unavailable",
    "chosen",
    "flatten",
    "folder",
    "from_plain",
    "nearest",
    "nearest_setting",
    "override",
    "ranged",
    "raymix_home",
    "setting",
    "signature",
    "to_plain",
]
