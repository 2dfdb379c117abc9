"""`python -m utils.mini_drseg`: see `utils.mini_drseg.generate`. Thin, since spawned workers import it again."""

from utils.mini_drseg.generate import main
from utils.runtime.errors import run_main

if __name__ == "__main__":
    run_main(main)
