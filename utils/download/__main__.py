"""`python -m utils.download`: see `utils.download.fetch`."""

from utils.download.fetch import main
from utils.runtime.errors import run_main

if __name__ == "__main__":
    run_main(main)
