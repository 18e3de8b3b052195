"""One engine in a process of its own, asked through a pipe (processes.py).

    python worker.py ENGINE MODEL THREADS '{"dtype": ..., "quantize": ..., "device": ...}'

Runs as a file, in whatever environment the engine is in, so nothing of Cutaway is imported here but by Cutaway. MODEL
is a folder, or for an engine with formats of its own what formats.py made of it, and "dtype" is then which it is.
0 threads: as many as the engine takes. First it says
{"imports": s, "load": s, "version": "...", "dtype": "..."}: the seconds that its packages and the model took, and what
was loaded; or {"refused": ...}, an error of Cutaway's, and ends. A question is a line of JSON, and so is its answer:

    {"prompt": [ids], "count": n}    the n most probable tokens, end tokens ignored: {"tokens": [...], "times": [...]},
                                     seconds from the question to each of them. A decoder behind an encoder begins
                                     with ``prompt`` what that makes of "source": [ids], or of "sound": [seed, bins,
                                     frames], frames drawn at random
    {"windows": [[ids], ...]}        {"losses": [...]}, nats for each token of each window but its first
    {"memory": true}                 {"bytes": the most this process has held, or on a GPU its memory}
    {"about": n, "source": m}        of Cutaway: the model, and what it asks of a machine to read n tokens, and to write
                                     one behind an encoder that has read m
    {"limits": true}                 of the machine, which stands among the engines: what it allows
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

#: dtype, quantize and device, None where nothing is said.
Asked = dict[str, str | None]


class Engine(Protocol):
    def __init__(self, path: str, threads: int, asked: Asked) -> None: ...

    def tokens(self, prompt: list[int], count: int, *source: np.ndarray) -> Iterator[int | tuple[int, float]]:
        """The most probable tokens, each as soon as it is there, or with the moment when it was. ``source``: what an
        encoder reads before, ids (1, S) or frames (1, M, R)."""

    def logits(self, ids: list[int]) -> np.ndarray:
        """(T, V), of every position."""


class Cutaway:
    """Ours, as any caller has it: load, generate and iterate."""

    def __init__(self, path: str, threads: int, asked: Asked) -> None:
        import torch

        import cutaway.api

        if threads:
            torch.set_num_threads(threads)
        self.model: Any = cutaway.api.load(path, asked["dtype"], asked["device"], quantize=asked["quantize"])
        self.model.eos = frozenset()
        self.dtype: str = self.model.card.dtype

    def tokens(self, prompt: list[int], count: int, *source: np.ndarray) -> Iterator[int]:
        if source:
            written = self._behind(prompt, count, source[0])
        else:
            written = self.model.generate(tokens=prompt, max_new_tokens=count, temperature=0, stream=True)
        for step in written:
            yield step.id

    def _behind(self, prompt: list[int], count: int, source: np.ndarray) -> Any:
        import torch

        from cutaway.generate.loop import generate
        from cutaway.generate.sampler import Sampler

        machine, dtype = self.model.machine, next(self.model.machine.parameters()).dtype
        given = torch.from_numpy(source).to(self.model.device)
        if given.is_floating_point():
            given = given.to(dtype)
        return generate(machine, prompt, sampler=Sampler(temperature=0), max_new_tokens=count, source=given)

    def about(self, prompt: int, source: int) -> dict[str, Any]:
        """The model, and what it asks of a machine to write a token and to read a prompt."""
        import torch

        from cutaway.bench import limits
        from cutaway.generate.in_c import in_c

        machine, card, device = self.model.machine, self.model.card, self.model.device
        width, dtype = machine.spec.stacks[-1].width, next(machine.parameters()).dtype
        memory = torch.zeros(1, 1, width, dtype=dtype, device=device) if source else None
        return {
            "family": card.family,
            "parameters": card.parameters,
            "dtype": card.dtype,
            "device": str(device),
            "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "threads": torch.get_num_threads(),
            "engine": "PyTorch" if in_c(machine, 1, 1, 1, memory) is None else "C",
            "bytes_of_a_token": limits.bytes_of_a_token(machine, source),
            "operations_of_a_prompt": limits.operations_of_a_prompt(machine, prompt),
        }

    def logits(self, ids: list[int]) -> np.ndarray:
        """As what it writes with reads them: with its inputs in 8 bits where its matrices have fewer."""
        from cutaway.generate.engine import engine

        logits: np.ndarray = engine(self.model.machine, len(ids), chunk=len(ids)).together([(0, ids, True)])[0]
        return logits


class Transformers:
    def __init__(self, path: str, threads: int, asked: Asked) -> None:
        import torch
        import transformers

        if threads:
            torch.set_num_threads(threads)
        its = transformers.AutoConfig.from_pretrained(path)
        behind = transformers.AutoModelForSeq2SeqLM if its.is_encoder_decoder else transformers.AutoModelForCausalLM
        kind = transformers.AutoModelForSpeechSeq2Seq if hasattr(its, "num_mel_bins") else behind
        self.model = kind.from_pretrained(path, dtype=asked["dtype"] or "auto").eval()
        self.model.to(asked["device"] or "cpu")
        self.dtype = str(self.model.dtype).removeprefix("torch.")
        self.model.generation_config = transformers.GenerationConfig(do_sample=False, pad_token_id=0)

    def tokens(self, prompt: list[int], count: int, *source: np.ndarray) -> Iterator[int]:
        import torch
        import transformers

        written: Any = Streamed()
        more: dict[str, Any] = {}
        given = begun = torch.tensor([prompt], device=self.model.device)
        if source:
            given = torch.from_numpy(source[0]).to(self.model.device)
            more = {"decoder_input_ids": begun, "decoder_start_token_id": prompt[0]}
        if given.is_floating_point():
            given = given.to(self.model.dtype)
        else:
            more["attention_mask"] = torch.ones_like(given)
        # Not a model's own, which of speech writes windows down.
        transformers.GenerationMixin.generate(
            self.model, given, max_new_tokens=count, streamer=written, eos_token_id=None, **more
        )
        yield from written.replay()

    def logits(self, ids: list[int]) -> np.ndarray:
        import torch

        with torch.no_grad():
            found: np.ndarray = self.model(torch.tensor([ids])).logits[0].numpy()
            return found


class LlamaCpp:
    """Through its C functions: the class that llama-cpp-python puts around them costs time for each token."""

    CONTEXT, AT_ONCE = 1024, 512  # tokens: more than is asked for here

    def __init__(self, path: str, threads: int, asked: Asked) -> None:
        import llama_cpp as c

        self.c: Any = c
        self.dtype = asked["dtype"]
        c.llama_backend_init()
        self.model = c.llama_model_load_from_file(path.encode(), c.llama_model_default_params())
        settings = c.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = self.CONTEXT, self.AT_ONCE, self.AT_ONCE
        settings.n_threads = settings.n_threads_batch = threads or os.cpu_count() or 1
        self.context = c.llama_init_from_model(self.model, settings)
        if self.model is None or self.context is None:
            raise SystemExit(f"llama.cpp cannot load {path}.")
        self.vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))
        self.batch = c.llama_batch_init(self.AT_ONCE, 0, 1)

    def tokens(self, prompt: list[int], count: int, *source: np.ndarray) -> Iterator[int | tuple[int, float]]:
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)
        new, place = prompt, 0
        for _ in range(count):
            self.read(new, place, everywhere=False)
            place += len(new)
            logits = np.ctypeslib.as_array(self.c.llama_get_logits_ith(self.context, -1), (self.vocabulary,))
            best = int(logits.argmax())
            yield best
            new = [best]

    def logits(self, ids: list[int]) -> np.ndarray:
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)
        self.read(ids, 0, everywhere=True)
        found = np.ctypeslib.as_array(self.c.llama_get_logits(self.context), (len(ids) * self.vocabulary,))
        return found.reshape(len(ids), self.vocabulary).copy()

    def read(self, ids: Sequence[int], place: int, everywhere: bool) -> None:
        self.batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            self.batch.token[i], self.batch.pos[i] = token, place + i
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, 0
            self.batch.logits[i] = everywhere or i == len(ids) - 1
        if self.c.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama.cpp could not decode.")


class CTranslate2:
    """A model whose words are its ids (formats.py)."""

    def __init__(self, path: str, threads: int, asked: Asked) -> None:
        import ctranslate2

        self.dtype = asked["dtype"]
        self.model: Any = ctranslate2.Generator(path, device="cpu", intra_threads=threads, compute_type=self.dtype)

    def tokens(self, prompt: list[int], count: int, *source: np.ndarray) -> Iterator[int | tuple[int, float]]:
        written = Streamed()

        def put(step: Any) -> bool:
            written.add(step.token_id)
            return False

        self.model.generate_batch(
            [[str(i) for i in prompt]], beam_size=1, sampling_topk=1, max_length=count, min_length=count, end_token=[],
            include_prompt_in_result=False, callback=put,
        )  # fmt: skip
        yield from written.replay()

    def logits(self, ids: list[int]) -> np.ndarray:
        found = self.model.forward_batch([[str(i) for i in ids]])
        return np.array(found)[0]


class OpenVINO:
    """A stateful model asked step by step; its file brings the settings that formats.py chose."""

    def __init__(self, path: str, threads: int, asked: Asked) -> None:
        import openvino as ov

        settings: Any = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        self.dtype = asked["dtype"]
        if self.dtype == "fp32":  # where the processor has bfloat16, it would be used unasked
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        self.request = ov.Core().compile_model(Path(path, "model.xml"), "CPU", settings).create_infer_request()
        self.ov = ov

    def tokens(self, prompt: list[int], count: int, *source: np.ndarray) -> Iterator[int | tuple[int, float]]:
        self.request.reset_state()
        new, place = prompt, 0
        for _ in range(count):
            best = int(self.read(new, place, [len(new) - 1])[0].argmax())
            yield best
            place += len(new)
            new = [best]

    def logits(self, ids: list[int]) -> np.ndarray:
        self.request.reset_state()
        return self.read(ids, 0, range(len(ids))).copy()

    def read(self, ids: Sequence[int], place: int, wanted: Sequence[int]) -> np.ndarray:
        self.request.infer(
            {
                "input_ids": np.array([ids], np.int64),
                "position_ids": np.arange(place, place + len(ids), dtype=np.int64)[None],
                "wanted": np.array(wanted, np.int64),
                "beam_idx": np.zeros(1, np.int32),
            },
            share_inputs=True,
        )
        return self.request.get_tensor("logits").data[0]


class Machine:
    """No engine, but what it runs on."""

    def __init__(self, path: str, threads: int, asked: Asked) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.device = asked["device"] or "cpu"
        self.dtype: Any = getattr(torch, asked["dtype"] or "float32")

    def limits(self) -> dict[str, float]:
        from cutaway.bench import limits

        read, multiplied = limits.bytes_a_second(self.device), limits.operations_a_second(self.dtype, self.device)
        return {"bytes_a_second": read, "operations_a_second": multiplied}


class Streamed:
    """Tokens that an engine hands to a function while it works, with the moment of each."""

    def __init__(self) -> None:
        self.found: list[tuple[int, float]] = []
        self.prompted = False

    def add(self, token: int) -> None:
        self.found.append((token, time.perf_counter()))

    def put(self, ids: Any) -> None:
        """As transformers calls it: first with the prompt."""
        if self.prompted:
            self.add(int(ids.reshape(-1)[-1]))
        self.prompted = True

    def end(self) -> None:
        pass

    def replay(self) -> Iterator[Any]:
        yield from self.found


ENGINES: dict[str, type[Engine] | type[Machine]] = {
    "machine": Machine,
    "cutaway": Cutaway,
    "transformers": Transformers,
    "llama.cpp": LlamaCpp,
    "CTranslate2": CTranslate2,
    "OpenVINO": OpenVINO,
}

#: What each imports, which is no part of its loading of a model.
NEEDS = {
    "machine": ("torch", "cutaway.bench.limits"),
    "cutaway": ("torch", "cutaway.api"),
    "transformers": ("torch", "transformers"),
    "llama.cpp": ("llama_cpp",),
    "CTranslate2": ("ctranslate2",),
    "OpenVINO": ("openvino",),
}


def source_of(asked: dict[str, Any]) -> list[np.ndarray]:
    """What an encoder reads, where there is one."""
    if "sound" in asked:
        seed, bins, frames = asked["sound"]
        return [np.random.default_rng(seed).standard_normal((1, bins, frames), np.float32)]
    return [np.array([asked["source"]])] if "source" in asked else []


def generated(engine: Engine, asked: dict[str, Any]) -> dict[str, Any]:
    source, count = source_of(asked), asked["count"]
    start = time.perf_counter()
    tokens, times = [], []
    for found in engine.tokens(asked["prompt"], count, *source):
        token, moment = found if isinstance(found, tuple) else (found, time.perf_counter())
        tokens.append(token)
        times.append(moment - start)
    if len(tokens) != count:
        raise SystemExit(f"{count} tokens were asked for, and {len(tokens)} came.")
    return {"tokens": tokens, "times": times}


def losses(engine: Engine, windows: list[list[int]]) -> dict[str, list[float]]:
    found = []
    for ids in windows:
        logits = engine.logits(ids)[:-1].astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        found.append(float((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), ids[1:]]).mean()))
    return {"losses": found}


def most_held(engine: Engine) -> int:
    """Bytes: of the process, or of a GPU where that is where the model is."""
    model = getattr(engine, "model", None)
    if getattr(getattr(model, "device", None), "type", "cpu") == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():  # what is asked of the system below counts what the parent held, too
        held = next((line for line in status.read_text("utf-8").splitlines() if line.startswith("VmHWM:")), "VmHWM: 0")
        return int(held.split()[1]) * 1024
    import resource  # which Windows has not

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    name, path, threads, options = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")  # what an engine prints goes with the errors
    os.dup2(2, 1)
    start = time.perf_counter()
    for module in NEEDS[name]:
        importlib.import_module(module)
    imported = time.perf_counter()
    if name == "cutaway":
        kernels()
    begun = time.perf_counter()
    try:
        engine = ENGINES[name](path, int(threads), json.loads(options))
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        refused = {
            "exit_code": error.exit_code,
            "message": getattr(error, "message", ""),
            "fix": getattr(error, "fix", ""),
        }
        return print(json.dumps({"refused": refused}), file=answers, flush=True)
    ready = {
        "imports": imported - start, "load": time.perf_counter() - begun, "version": version(name),
        "dtype": None if isinstance(engine, Machine) else getattr(engine, "dtype", None),
    }  # fmt: skip
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(engine, Machine):
            answer: dict[str, Any] = engine.limits()
        elif "prompt" in asked:
            answer = generated(engine, asked)
        elif "windows" in asked:
            answer = losses(engine, asked["windows"])
        elif "about" in asked and isinstance(engine, Cutaway):
            answer = engine.about(asked["about"], asked["source"])
        else:
            answer = {"bytes": most_held(engine)}
        print(json.dumps(answer), file=answers, flush=True)


def kernels() -> None:
    """Compiled now where they have not been, so that it is not PyTorch that is measured meanwhile."""
    from cutaway.native import library

    with contextlib.suppress(library.Unavailable):
        library.compiled()


def version(name: str) -> str:
    """As the package says it."""
    module = sys.modules[NEEDS[name][-1].partition(".")[0]]
    return str(getattr(module, "__version__", "")).partition("-")[0]  # OpenVINO adds where it was built


if __name__ == "__main__":
    main()
