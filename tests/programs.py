"""Programs of the system that tests need."""

import os
import shutil
import subprocess


def installed(*names: str) -> str | None:
    """Return the first of these programs that is installed; else install the first, where that may be done."""
    if found := next(filter(None, map(shutil.which, names)), None):
        return found
    if shutil.which("apt-get") and os.geteuid() == 0:
        for command in (["update", "-qq"], ["install", "-y", "-qq", names[0]]):
            subprocess.run(["apt-get", *command], stdout=subprocess.DEVNULL, check=False)
    return shutil.which(names[0])
