"""`python -m utils.evaluation.report`: see `utils.evaluation.report.command`."""

from utils.evaluation.report.command import main
from utils.runtime.errors import run_main

if __name__ == "__main__":
    run_main(main)
