"""``python -m lccl``: the command ``lccl``."""

from lccl.cli.main import main

if __name__ == "__main__":
    main()
