"""The command ``python -m lccl.cuda``; :mod:`lccl.cli.cuda` has it."""

from lccl.cli.cuda import main

if __name__ == "__main__":
    main()
