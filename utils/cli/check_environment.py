"""Whether this interpreter has what requirements.txt asks for; run by utils/cli/environment.sh.

    python utils/cli/check_environment.py requirements.txt

Exit status 0 and nothing printed when it has; else 1 and one line for each thing amiss. It runs in
environments where nothing is installed, so it needs the standard library only to say so.
"""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from pathlib import Path

# A torch and a torchvision from different builds satisfy every version range and yet fail here.
IMPORTED_TOGETHER = ("torch", "torchvision", "sam2")


def wanted_lines(text: str) -> list[str]:
    """The requirements in the text of a requirements file, comments and options left out."""
    lines = (line.split(" #")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def unmet(lines: list[str]) -> list[str]:
    """One sentence for each requirement that the installed packages do not meet."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return ["packaging is not installed, nor, most likely, is the rest"]
    problems = []
    for requirement in map(Requirement, lines):
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is not installed (wanted: {requirement})")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement.name} {version} is installed (wanted: {requirement})")
    return problems


def broken_imports(names: tuple[str, ...]) -> list[str]:
    """One sentence for the first of `names` that cannot be imported after those before it."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # a mismatched torchvision raises RuntimeError, a broken library OSError
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            return [f"{name} is installed but cannot be imported ({cause}); torch and torchvision must be one build"]
    return []


def main() -> int:
    # Python puts a script's folder first on the path; modules of ours would pass for packages of that name.
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    lines = wanted_lines(Path(sys.argv[1]).read_text(encoding="utf-8"))
    problems = unmet(lines) or broken_imports(IMPORTED_TOGETHER)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
