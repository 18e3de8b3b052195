"""`make setup`: find a Python that fits, then let tools/steps.py do the work with it.

Only what Python 3.7 understands, so that an old Python can say that it is too old.
"""

import os
import shutil
import subprocess
import sys

FITTING = ("3.13", "3.12", "3.11")  # as requires-python in pyproject.toml


def version_of(python):
    """ "3.12" for a Python that runs; None for one that does not (a version manager's stub, say)."""
    command = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.decode().strip() if done.returncode == 0 else None


def fitting_python():
    """This Python when it fits, else the newest fitting one on the PATH, else None."""
    if f"{sys.version_info[0]}.{sys.version_info[1]}" in FITTING:
        return sys.executable
    for version in FITTING:
        found = shutil.which("python" + version)
        if found and version_of(found) == version:
            return found
    return None


def main():
    python = fitting_python()
    if python is None:
        have = sys.version.split()[0]
        sys.stderr.write(
            f"Cutaway needs Python 3.11, 3.12 or 3.13; {sys.executable} is {have}, and no other is on the PATH.\n"
            "Install one, or name one: make setup PYTHON=/path/to/python3.12\n"
        )
        return 1
    steps = os.path.join(os.path.dirname(os.path.abspath(__file__)), "steps.py")
    return subprocess.call([python, steps, *sys.argv[1:]])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
