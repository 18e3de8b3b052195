"""The steps of `make setup`: .venv, PyTorch, Cutaway, the page; with --dev also what the tests need.

A step is done again only when what it is made from has changed: each leaves a note of that in .venv/.setup (the page
in .setup). Standard library only; tools/setup.py starts this with a Python that fits.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import build_page

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
NOTES = VENV / ".setup"
CONSTRAINTS = NOTES / "constraints.txt"  # the repository's, but for a PyTorch that was already there
LOG = ROOT / ".setup/log"

OLDEST_TORCH = (2, 10)  # as in pyproject.toml


class SetupError(Exception):
    """What stopped the set-up and what to do about it, for the person at the terminal."""


def main(arguments: list[str]) -> int:
    dev = "--dev" in arguments
    count = 5 if dev else 4
    LOG.unlink(missing_ok=True)
    try:
        environment(f"1/{count}")
        torch_step(f"2/{count}")
        write_constraints(CONSTRAINTS, torch=read_note("torch").get("kept"))
        made_from = digest(ROOT / "pyproject.toml", CONSTRAINTS)
        step(f"3/{count}", "Cutaway and what it needs", "cutaway", made_from, lambda: install("."), VENV)
        if dev:
            step(f"4/{count}", "What the tests need", "dev", made_from, lambda: install(".[dev]"), VENV)
        page_step(f"{count}/{count}")
    except (SetupError, build_page.PageError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


# ---- one step ----


def step(number: str, title: str, note: str, made_from: str, action: Callable[[], Any], *folders: Path) -> None:
    """Do ``action`` unless its note says that it was done from the same; print by how much ``folders`` grew.

    What the action returns goes into the note; a size among it counts instead.
    """
    noted = read_note(note)
    if noted.get("made_from") == made_from:
        say(f"{number}  {title}: ready ({readable(noted['bytes'])})")
        return
    say(f"{number}  {title} ...")
    (NOTES / note).unlink(missing_ok=True)
    before, start = size(*folders), time.monotonic()
    more = action() or {}
    # Done again after a small change, a step grows by nothing; its size is then what it was.
    grown = max(size(*folders) - before, noted.get("bytes", 0))
    NOTES.mkdir(parents=True, exist_ok=True)
    noted = {"made_from": made_from, "bytes": grown, **more}
    (NOTES / note).write_text(json.dumps(noted))
    say(f"     done: {readable(noted['bytes'])} in {time.monotonic() - start:.0f} s")


def read_note(name: str) -> dict[str, Any]:
    """What a step left behind; nothing when it was not done, or was cut off."""
    try:
        return dict(json.loads((NOTES / name).read_text()))
    except (OSError, ValueError):
        return {}


def digest(*files: Path) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def size(*folders: Path) -> int:
    """Bytes of all files under the folders; links are not followed."""
    return sum(path.lstat().st_size for folder in folders for path in build_page.files(folder))


def readable(count: int) -> str:
    """1234567 -> "1.2 MB", in decimal units as pip prints them."""
    number = float(count)
    for unit in ("B", "kB", "MB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 99.95 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def say(text: str) -> None:
    print(text, flush=True)


# ---- running others ----


def run(*command: object, or_say: str) -> None:
    """Run a command. All it prints goes to the log; shown are large downloads and, when it fails, the end."""
    words = [str(word) for word in command]
    lines: list[str] = []
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(words)}\n")
        process = subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
        )
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            lines.append(line)
            if (download := large_download(line)) is not None:
                say(f"     {download}")
    if process.wait() != 0:
        raise SetupError(f"{''.join(lines[-25:])}\n{or_say} The whole log: {LOG}")


def large_download(line: str) -> str | None:
    """ "torch-2.13.0.whl (191.8 MB)" from pip's line about it, when it is 10 MB or more."""
    match = re.match(r"\s*(?:Downloading|Using cached) (\S+) \(([\d.]+) (MB|GB)\)", line)
    if match is None or (match[3] == "MB" and float(match[2]) < 10):
        return None
    return f"{match[1].rsplit('/', 1)[-1]} ({match[2]} {match[3]})"


def pip_install(*arguments: object, or_say: str) -> None:
    run(PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *arguments, or_say=or_say)


def answer(python: str | Path, program: str) -> str:
    """What ``python`` prints for the program; empty when it cannot be run or fails."""
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# ---- 1: .venv ----


def environment(number: str) -> None:
    """Make .venv with this Python, unless one is there and runs."""
    version = answer(PYTHON, "import platform; print(platform.python_version())")
    if version:
        say(f"{number}  Python {version} in .venv: ready")
        return
    title = f"Python {platform.python_version()} in .venv"
    step(number, title, "environment", title, create_environment, VENV)


def create_environment() -> None:
    create = [sys.executable, "-m", "venv", "--clear"]
    if answer(sys.executable, "import ensurepip; print('yes')"):
        run(*create, VENV, or_say="Python could not create .venv.")
    elif answer(sys.executable, "import pip; print('yes')"):  # Debian without python3-venv
        run(*create, "--without-pip", VENV, or_say="Python could not create .venv.")
        run(sys.executable, "-m", "pip", "--python", PYTHON, "install", "pip", or_say="pip could not enter .venv.")
    else:
        raise SetupError(
            f"{sys.executable} has neither ensurepip nor pip, so nothing can be installed with it.\n"
            "Install them (on Debian and Ubuntu the package python3-venv), or name another Python: "
            "make setup PYTHON=/path/to/python3"
        )


# ---- 2: PyTorch ----


def torch_step(number: str) -> None:
    """PyTorch comes before anything that would ask pip for it."""
    pin = next(line for line in pins() if line.startswith("torch=="))
    noted = read_note("torch")
    ours = bool(noted) and "kept" not in noted
    step(number, "PyTorch", "torch", pin, lambda: install_torch(ours), VENV)


def install_torch(ours: bool) -> dict[str, Any]:
    """Install the pinned PyTorch, or keep one made for a GPU that the machine already has.

    It is kept when .venv has it (and it is not ``ours``, put there by an earlier set-up) or when the Python that .venv
    was made with has it; its version then replaces the pin, so that nothing installs over it.
    """
    if not ours:
        kept = gpu_torch(PYTHON)
        if kept is None and (lent := gpu_torch(sys.executable)) is not None:
            site = answer(PYTHON, "import sysconfig; print(sysconfig.get_path('purelib'))")
            Path(site, "machine_torch.pth").write_text(f"{lent['folder']}\n")  # its packages come after .venv's own
            kept = gpu_torch(PYTHON)
        if kept is not None:
            say(f"     keeping PyTorch {kept['version']} from {kept['folder']}")
            return {"kept": kept["version"], "bytes": size(Path(kept["folder"], "torch"))}
    if sys.platform == "linux" and not has_gpu() and not has_own_index():
        say("     No GPU is seen here, yet PyTorch's usual Linux build carries CUDA: several GB.")
        say("     For the small build: Ctrl-C, then docs/setup.md, 'PyTorch without CUDA'.")
    pip_install("-c", ROOT / "constraints.txt", "torch", or_say="PyTorch could not be installed.")
    return {}


def gpu_torch(python: str | Path) -> dict[str, str] | None:
    """Version and folder of a PyTorch that ``python`` imports, if it is made for a GPU and new enough."""
    printed = answer(
        python,
        "import json, pathlib, torch\n"
        "gpu = torch.version.cuda or getattr(torch.version, 'hip', None)\n"
        "print(json.dumps([torch.__version__, gpu, str(pathlib.Path(torch.__file__).parents[1])]))",
    )
    if not printed:
        return None
    version, gpu, folder = json.loads(printed.splitlines()[-1])
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    return {"version": version, "folder": folder} if gpu and numbers >= OLDEST_TORCH else None


def has_gpu() -> bool:
    """Whether NVIDIA's or AMD's driver shows itself."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists() or Path("/dev/kfd").exists()


def has_own_index() -> bool:
    """Whether pip was told of another place for packages; that place then decides which PyTorch comes."""
    done = subprocess.run([PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    return re.search(r"index-url|find-links", done.stdout) is not None


def pins() -> list[str]:
    return (ROOT / "constraints.txt").read_text("utf-8").splitlines()


def write_constraints(to: Path, torch: str | None) -> None:
    """constraints.txt, with the PyTorch that was kept in place of the pinned one."""
    lines = [f"torch=={torch}" if torch and line.startswith("torch==") else line for line in pins()]
    to.write_text("\n".join(lines) + "\n", encoding="utf-8")


# ---- 3 and 4: Cutaway, and what the tests need ----


def install(what: str) -> None:
    """Cutaway itself, editable. The tools that build it are pinned like the rest, hence no build isolation."""
    pip_install("-c", CONSTRAINTS, "hatchling", "editables", or_say="The build tools could not be installed.")
    pip_install("-c", CONSTRAINTS, "--no-build-isolation", "-e", what, or_say="Cutaway could not be installed.")


# ---- 5: the page ----


def page_step(number: str) -> None:
    """Node from a package where the system's will not do, then web/ -> src/cutaway/page/ (tools/build_page.py)."""
    web, built = ROOT / "web", ROOT / "src/cutaway/page"
    if build_page.stands(ROOT):
        say(f"{number}  The page: ready ({readable(size(built))})")
        return
    say(f"{number}  The page ...")
    start = time.monotonic()
    if build_page.system_node(web) is None:
        pip_install("-c", CONSTRAINTS, build_page.NODE_WHEEL, or_say="Node could not be installed.")
    run(PYTHON, ROOT / "tools/build_page.py", "build", or_say="The page could not be built.")
    tools = readable(size(web / "node_modules"))
    say(f"     done: {readable(size(built))}, made with {tools} of tools, in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
