"""The command ``python -m lccl.plugin``; :mod:`lccl.cli.plugin` has it."""

from lccl.cli.plugin import main

if __name__ == "__main__":
    main()
