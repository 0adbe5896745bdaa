"""raymix: hyper-parameter search on a cluster for models that find the sources of a mixed sound in an image."""

import os
import signal
import sys

__version__ = "0.1.0"


if (
    sys.argv
    and (sys.argv[0] == "-m" or os.path.basename(sys.argv[0]) == "raymix")
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):  # a command is being loaded: until it runs (`commands.run_command`), Ctrl-C ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
