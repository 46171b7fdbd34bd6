"""``python -m rnnx`` is ``rnnx``."""

from rnnx.cli import main

main()
