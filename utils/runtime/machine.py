"""Provenance of measurements: hardware, package versions and the version of this code."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from utils.runtime.files import CHECKOUT

CPU_INFO = Path("/proc/cpuinfo")
PACKAGES = ("torch", "transformers", "sam2", "deepspeed", "flash-attn", "pillow", "opencv-python-headless")


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, GPU, threads, versions of packages and of this code."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "device": str(device),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in PACKAGES},
        "code_version": code_version(),
    }


def cpu_model() -> str:
    """The processor's name, from the kernel or else from Python."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def package_version(package: str) -> str | None:
    """The version of an installed package, else None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def code_version() -> str | None:
    """The checkout's commit, with "-dirty" where files differ from it; None outside a git checkout."""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return done.stdout.strip() or None
