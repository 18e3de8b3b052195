"""tools/steps.py: each step once, and a PyTorch made for the machine's GPU is left alone."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
import setup
import steps

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here touches the repository's own .venv."""
    monkeypatch.setattr(steps, "NOTES", tmp_path / "notes")
    monkeypatch.setattr(steps, "LOG", tmp_path / "log/log")


def test_a_step_is_done_once_and_again_when_its_source_changed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    done: list[str] = []

    def fill() -> None:
        done.append("done")
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder/file").write_bytes(b"0" * 2000)

    for made_from in ("a", "a", "b", "b"):
        steps.step("1/1", "Fill", "fill", made_from, fill, tmp_path / "folder")
    assert done == ["done", "done"]
    printed = capsys.readouterr().out
    assert printed.count("ready (2.0 kB)") == 2
    assert printed.count("done: 2.0 kB") == 2


def test_a_step_that_failed_is_done_again(tmp_path: Path) -> None:
    steps.step("1/1", "Fill", "fill", "a", lambda: None, tmp_path)

    def fail() -> None:
        raise steps.SetupError("no")

    with pytest.raises(steps.SetupError):
        steps.step("1/1", "Fill", "fill", "b", fail, tmp_path)
    assert steps.read_note("fill") == {}


def test_a_failing_command_shows_its_end_and_names_the_log(tmp_path: Path) -> None:
    program = "[print('line', i) for i in range(40)]; raise SystemExit(3)"
    with pytest.raises(steps.SetupError, match=r"(?s)line 39.*It broke\..*log") as failure:
        steps.run(sys.executable, "-c", program, or_say="It broke.")
    assert "line 3\n" not in str(failure.value)
    assert "line 3\n" in (tmp_path / "log/log").read_text()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  Downloading torch-2.13.0-cp311-linux.whl (191.8 MB)\n", "torch-2.13.0-cp311-linux.whl (191.8 MB)"),
        ("  Using cached https://host/path/nvidia.whl (1.2 GB)", "nvidia.whl (1.2 GB)"),
        ("  Downloading rich-15.0.0-py3-none-any.whl (310.7 kB)", None),
        ("  Downloading numpy-2.4.6.whl (9.9 MB)", None),
        ("Collecting torch", None),
    ],
)
def test_only_large_downloads_are_shown(line: str, shown: str | None) -> None:
    assert steps.large_download(line) == shown


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_949, "99.9 kB"), (857_000_000, "857 MB"), (1.2e9, "1.2 GB")],
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert steps.readable(count) == text


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bare environments: .venv, and the machine's Python, for which a PyTorch can be made up. Its site-packages."""
    for name in ("venv", "machine"):
        venv.create(tmp_path / name, symlinks=True)
    monkeypatch.setattr(steps, "PYTHON", tmp_path / "venv/bin/python")
    monkeypatch.setattr(steps.sys, "executable", str(tmp_path / "machine/bin/python"))
    (site,) = (tmp_path / "machine/lib").glob("python*/site-packages")
    return site


def make_up_torch(site: Path, version: str, cuda: str | None) -> None:
    (site / "torch").mkdir()
    (site / "torch/__init__.py").write_text(f"__version__ = {version!r}\nfrom . import version\n")
    (site / "torch/version.py").write_text(f"cuda = {cuda!r}\nhip = None\n")


def test_the_machines_gpu_torch_is_lent_to_the_environment(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_up_torch(machine, "2.12.1+cu130", "13.0")
    monkeypatch.setattr(steps, "pip_install", lambda *_, **__: pytest.fail("installed over it"))
    noted = steps.install_torch(ours=False)
    assert noted == {"kept": "2.12.1+cu130", "bytes": steps.size(machine / "torch")}
    assert steps.answer(steps.PYTHON, "import torch; print(torch.__version__)") == "2.12.1+cu130"
    assert steps.install_torch(ours=False)["kept"] == "2.12.1+cu130"  # and is found again, now through .venv


@pytest.mark.parametrize(("version", "cuda"), [("2.9.1+cu128", "12.8"), ("2.13.0+cpu", None), (None, None)])
def test_one_too_old_or_without_gpu_is_not(
    machine: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, cuda: str | None
) -> None:
    if version is not None:
        make_up_torch(machine, version, cuda)
    asked: list[object] = []
    monkeypatch.setattr(steps, "pip_install", lambda *what, **_: asked.extend(what))
    assert steps.install_torch(ours=False) == {}
    assert asked[-1] == "torch"


def test_what_an_earlier_set_up_installed_follows_the_pin(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_up_torch(machine, "2.12.1+cu130", "13.0")
    asked: list[object] = []
    monkeypatch.setattr(steps, "pip_install", lambda *what, **_: asked.extend(what))
    assert steps.install_torch(ours=True) == {}
    assert asked[-1] == "torch"


def test_the_pin_moves_to_the_torch_that_was_kept(tmp_path: Path) -> None:
    steps.write_constraints(tmp_path / "kept", torch="2.12.1+cu130")
    steps.write_constraints(tmp_path / "pinned", torch=None)
    kept, pinned = ((tmp_path / name).read_text().splitlines() for name in ("kept", "pinned"))
    assert [(a, b) for a, b in zip(kept, pinned, strict=True) if a != b] == [("torch==2.12.1+cu130", "torch==2.13.0")]


def test_an_old_python_can_read_the_script_that_refuses_it() -> None:
    ast.parse((ROOT / "tools/setup.py").read_text(), feature_version=(3, 7))


def test_a_python_that_does_not_fit_hands_over_or_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(setup, "FITTING", ("2.0",))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup.main() == 1
    assert "Cutaway needs Python 3.11" in capsys.readouterr().err
    (tmp_path / "python2.0").write_text("#!/bin/sh\necho 2.0\n")
    (tmp_path / "python2.0").chmod(0o755)
    assert setup.fitting_python() == str(tmp_path / "python2.0")
    (tmp_path / "python2.0").write_text("#!/bin/sh\nexit 127\n")  # a version manager's stub
    assert setup.fitting_python() is None


def test_the_pythons_named_are_those_the_package_admits() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert setup.FITTING == ("3.13", "3.12", "3.11")


@pytest.mark.parametrize("target", ["run", "setup", "test", "soak", "screenshots"])
def test_makefile_targets(target: str) -> None:
    command = ["make", "--no-print-directory", "-n", target]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "tools/setup.py" in plan.splitlines()[0]
    if target == "run":
        assert ".venv/bin/cutaway look" in plan
    if target == "test":
        tools = ["ruff check", "mypy", "lint-imports", "npm run check", "npm run test", "-m pytest"]
        assert [plan.index(tool) for tool in tools] == sorted(plan.index(tool) for tool in tools)


def test_continuous_integration_runs_make_test_with_a_browser_required() -> None:
    script = ROOT / ".ci/run"
    subprocess.run(["bash", "-n", script], check=True)
    assert script.stat().st_mode & 0o111
    assert script.read_text().splitlines()[-1] == "REQUIRE_BROWSER=1 make test"
