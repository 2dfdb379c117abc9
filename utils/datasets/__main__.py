"""`python -m utils.datasets`: see `utils.datasets.command`."""

from utils.datasets.command import main
from utils.runtime.errors import run_main

if __name__ == "__main__":
    run_main(main)
