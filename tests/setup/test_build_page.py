"""tools/build_page.py and hatch_build.py: no package without a page, no page built twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import build_page
import pytest

ROOT = Path(__file__).resolve().parents[2]
INDEX = '<!doctype html><script type="module" src="./assets/index.js"></script>'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As little of the repository as a package can be built from, with a page that was just built."""
    root = tmp_path / "checkout"
    texts = ("README.md", "LICENSE", "NOTICE", ".gitignore")
    for name in ("pyproject.toml", "hatch_build.py", "tools/build_page.py", *texts):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    write(root / "src/cutaway/__init__.py", '__version__ = "0.1.0"')
    write(root / "web/package-lock.json", (ROOT / "web/package-lock.json").read_text())
    write(root / "web/node_modules/left/out.js", "")
    write(root / "src/cutaway/page/index.html", INDEX)
    write(root / "src/cutaway/page/assets/index.js", "1")
    write(root / "src/cutaway/page/standalone.html", INDEX)
    write(root / ".setup/page", build_page.digest(root))
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def package(root: Path, target: str) -> subprocess.CompletedProcess[str]:
    """Build as pip would; npm is out of reach, so a page that has to be built cannot be."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(root / "dist")]
    return subprocess.run(command, cwd=root, env={"PATH": ""}, capture_output=True, text=True, check=False)


def only(root: Path, pattern: str) -> Path:
    (found,) = (root / "dist").glob(pattern)
    return found


def unpack(root: Path) -> Path:
    """The folder in the sdist that was built in ``root``."""
    with tarfile.open(only(root, "*.tar.gz")) as archive:
        archive.extractall(root / "unpacked", filter="data")
    (folder,) = (root / "unpacked").iterdir()
    return folder


def test_wheel_and_sdist_hold_the_page(checkout: Path) -> None:
    assert package(checkout, "wheel").returncode == 0
    assert package(checkout, "sdist").returncode == 0
    in_wheel = set(zipfile.ZipFile(only(checkout, "*.whl")).namelist())
    in_sdist = {path.relative_to(unpack(checkout)).as_posix() for path in unpack(checkout).rglob("*")}
    assert {"cutaway/page/index.html", "cutaway/page/assets/index.js"} <= in_wheel
    assert {"src/cutaway/page/index.html", "src/cutaway/page/assets/index.js", "tools/build_page.py"} <= in_sdist
    assert not [name for name in in_sdist | in_wheel if "node_modules" in name]


def test_sdist_installs_without_node(checkout: Path) -> None:
    package(checkout, "sdist")
    unpacked = unpack(checkout)
    assert package(unpacked, "wheel").returncode == 0
    assert "cutaway/page/index.html" in zipfile.ZipFile(only(unpacked, "*.whl")).namelist()


@pytest.mark.parametrize("broken", ["missing", "empty", "blank", "asset gone", "not in one file"])
def test_no_wheel_without_a_whole_page(checkout: Path, broken: str) -> None:
    index = checkout / "src/cutaway/page/index.html"
    match broken:
        case "missing":
            index.unlink()
        case "empty":
            index.write_text("")
        case "blank":
            index.write_text(" \n")
        case "asset gone":
            (checkout / "src/cutaway/page/assets/index.js").unlink()
        case "not in one file":
            (checkout / "src/cutaway/page/standalone.html").unlink()
    write(checkout / ".setup/page", build_page.digest(checkout))  # as if a build had ended so
    done = package(checkout, "wheel")
    assert done.returncode != 0
    assert "index.html" in done.stderr
    assert not list((checkout / "dist").glob("*.whl"))


def test_no_wheel_from_an_sdist_that_lost_its_page(checkout: Path) -> None:
    package(checkout, "sdist")
    unpacked = unpack(checkout)
    shutil.rmtree(unpacked / "src/cutaway/page")
    done = package(unpacked, "wheel")
    assert done.returncode != 0
    assert "was not built" in done.stderr


def test_page_is_built_again_when_its_source_changed(checkout: Path) -> None:
    write(checkout / "web/src/main.ts", "new")
    done = package(checkout, "wheel")
    assert done.returncode != 0  # it wanted to build, and there is no Node
    assert "needs Node" in done.stderr


def test_editable_install_needs_no_page(checkout: Path) -> None:
    shutil.rmtree(checkout / "src/cutaway/page")
    program = "from hatchling.build import build_editable; print(build_editable('dist'))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=checkout, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        ("v20.19.0", True),
        ("v20.20.2", True),
        ("v20.18.3", False),
        ("v21.9.0", False),
        ("v22.11.9", False),
        ("v22.12.0", True),
        ("v24.1.0", True),
        ("v18.20.4", False),
    ],
)
def test_node_versions(version: str, accepted: bool) -> None:
    assert build_page.accepts("^20.19.0 || >=22.12.0", version) is accepted


def test_an_unreadable_range_of_node_versions_is_an_error() -> None:
    with pytest.raises(build_page.PageError, match="Node range"):
        build_page.accepts("20.x", "v20.20.2")


def test_the_range_comes_from_the_locked_vite_and_the_packaged_node_satisfies_it() -> None:
    assert build_page.accepts(build_page.wanted_node(ROOT / "web"), build_page.NODE_WHEEL.partition("==")[2])


def test_a_system_node_that_is_too_old_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, says in {"node": "echo v18.0.0", "npm": "echo 9"}.items():
        write(tmp_path / name, f"#!/bin/sh\n{says}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert build_page.system_node(ROOT / "web") is None
    write(tmp_path / "node", "#!/bin/sh\necho v22.12.0\n")
    found = build_page.system_node(ROOT / "web")
    assert found is not None
    assert found.folder == tmp_path
