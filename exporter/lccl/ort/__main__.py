"""The command ``python -m lccl.ort``; :mod:`lccl.cli.ort` has it."""

from lccl.cli.ort import main

if __name__ == "__main__":
    main()
