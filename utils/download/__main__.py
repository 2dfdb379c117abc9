"""`python -m utils.download`: see `utils.download.command`."""

from utils.download.command import main
from utils.runtime.errors import run_main

if __name__ == "__main__":
    run_main(main)
