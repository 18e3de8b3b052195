"""Bring the engines that Cutaway is compared with into an environment of their own.

    python benchmarks/peers.py [--folder .peers] [--jobs 2]

Makes a virtual environment with the Python that runs this, and installs there, at the versions below: PyTorch first and
alone (whatever asks for it later finds it), transformers, CTranslate2, OpenVINO with NNCF (which makes its int8 and
int4), and llama.cpp, compiled for this very processor, which takes about ten minutes of one core and needs cmake and a
C++ compiler. About 2 GB. What is there already is left alone, so a second run only looks. Ends with an error, and says
which, where one could not be installed; benchmarks/generate.py then compares with the others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".peers"
PEERS = {
    "PyTorch": {"torch": "2.13.0"},
    "transformers": {"transformers": "5.23.0"},
    "CTranslate2": {"ctranslate2": "4.8.5"},
    "OpenVINO": {"openvino": "2026.4.1", "nncf": "3.4.0"},
    "llama.cpp": {"gguf": "0.19.0", "llama-cpp-python": "0.3.36"},
}
# From source, for this processor: a wheel made for all of them would leave out AVX-512 and its VNNI.
BUILD = (
    "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF "
    "-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF"
)
VERSIONS = (
    "import importlib.metadata as m, json; "
    "print(json.dumps({d.name.lower().replace('_', '-'): d.version for d in m.distributions()}))"
)
PROCESSOR = "import llama_cpp as c; c.llama_backend_init(); print(c.llama_print_system_info().decode())"


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def installed(folder: Path) -> dict[str, str]:
    """Each package in the environment with its version; nothing where there is no environment."""
    if not python_of(folder).exists():
        return {}
    done = subprocess.run([python_of(folder), "-c", VERSIONS], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def missing(wanted: dict[str, str], there: dict[str, str]) -> list[str]:
    """What pip is to be asked for. PyTorch's "2.13.0+cpu" is a 2.13.0."""
    return [f"{name}=={version}" for name, version in wanted.items() if there.get(name, "").split("+")[0] != version]


def install(folder: Path, what: list[str], jobs: int) -> bool:
    """Whether pip could. ``no-binary`` is only for llama.cpp; the pins keep PyTorch as it is."""
    pins = [f"{name}=={version}" for peer in PEERS.values() for name, version in peer.items()]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    command = [str(python_of(folder)), "-m", "pip", "install", "--quiet", "--no-binary", "llama-cpp-python",
               "--constraint", str(constraints), *what]  # fmt: skip
    environment = {**os.environ, "CMAKE_ARGS": BUILD, "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs)}
    return subprocess.run(command, env=environment).returncode == 0


def compiled_for(folder: Path) -> str:
    """What llama.cpp says it may use of this processor; pip may have kept a build that was made for another."""
    told = subprocess.run([python_of(folder), "-c", PROCESSOR], capture_output=True, text=True).stdout.strip()
    processor = Path("/proc/cpuinfo")
    if processor.is_file() and "avx512_vnni" in processor.read_text() and "AVX512_VNNI = 1" not in told:
        remedy = "pip cache remove llama_cpp_python, remove it from the environment, and run this again"
        return f"llama.cpp was compiled without the VNNI that this processor has: {remedy}."
    return f"llama.cpp was compiled for {told}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--jobs", type=int, default=2, help="how many files of llama.cpp are compiled at once")
    asked = parser.parse_args()
    if not python_of(asked.folder).exists():
        subprocess.run([sys.executable, "-m", "venv", asked.folder], check=True)
    absent = []
    for peer, wanted in PEERS.items():
        start, what = time.monotonic(), missing(wanted, installed(asked.folder))
        if what:
            print(f"{peer}: installing {', '.join(what)}", flush=True)
        if what and not install(asked.folder, what, asked.jobs):
            absent.append(peer)
            print(f"{peer}: could not be installed; the lines above say why", flush=True)
        else:
            took = f", {time.monotonic() - start:.0f} s" if what else " was there"
            print(f"{peer}: {', '.join(f'{n} {v}' for n, v in wanted.items())}{took}", flush=True)
    if "llama.cpp" not in absent:
        print(compiled_for(asked.folder))
    if absent:
        print(f"Not installed: {', '.join(absent)}. The comparison goes on without.", file=sys.stderr)
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
