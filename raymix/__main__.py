"""`python -m raymix COMMAND ...`, the same as the console script `raymix`."""

from raymix.cli import main

main()
