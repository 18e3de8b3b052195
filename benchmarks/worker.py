"""One engine in a process of its own, asked through a pipe by benchmarks/generate.py and benchmarks/losses.py.

    python benchmarks/worker.py ENGINE MODEL THREADS [PRECISION]

A question is a line of JSON, and so is its answer:

    {"prompt": [ids], "count": n}    the n most probable tokens, end tokens ignored: {"tokens": [...], "times": [...]},
                                     seconds from the question to each of them
    {"windows": [[ids], ...]}        {"losses": [...]}, nats for each token of each window but its first
    {"memory": true}                 {"bytes": the most this process has held}
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

CONTEXT = 1024


class Engine(Protocol):
    def tokens(self, prompt: list[int], count: int) -> Iterator[int]:
        """The most probable tokens, each as soon as it is there."""

    def logits(self, ids: list[int]) -> np.ndarray:
        """(T, V), of every position."""


class Cutaway:
    """Ours, as any caller has it: load, generate and iterate."""

    def __init__(self, path: str, threads: int, precision: str) -> None:
        import torch

        import cutaway

        torch.set_num_threads(threads)
        quantized: dict[str, Any] = {} if precision == "fp32" else {"quantize": precision}
        self.model: Any = cutaway.load(path, **quantized)
        self.model.eos = frozenset()

    def tokens(self, prompt: list[int], count: int) -> Iterator[int]:
        for step in self.model.generate(tokens=prompt, max_new_tokens=count, temperature=0, stream=True):
            yield step.id

    def logits(self, ids: list[int]) -> np.ndarray:
        """As what it writes with reads them: with its inputs in 8 bits where its matrices have fewer."""
        from cutaway.generate.engine import Engine

        return Engine(self.model.machine, len(ids), chunk=len(ids)).together([(0, ids, True)])[0]


class Transformers:
    def __init__(self, path: str, threads: int, _: str) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()
        self.model.generation_config = transformers.GenerationConfig(do_sample=False, pad_token_id=0)

    def tokens(self, prompt: list[int], count: int) -> Iterator[int]:
        import torch

        written = Streamed()
        given = torch.tensor([prompt])
        self.model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=count, streamer=written, eos_token_id=None
        )
        yield from written.replay()

    def logits(self, ids: list[int]) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0].numpy()


class LlamaCpp:
    """Through its C functions: the class that llama-cpp-python puts around them costs time for each token."""

    def __init__(self, path: str, threads: int, _: str) -> None:
        import llama_cpp as c

        self.c = c
        c.llama_backend_init()
        self.model = c.llama_model_load_from_file(path.encode(), c.llama_model_default_params())
        settings = c.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = CONTEXT, 512, 512
        settings.n_threads = settings.n_threads_batch = threads
        self.context = c.llama_init_from_model(self.model, settings)
        if self.model is None or self.context is None:
            raise SystemExit(f"llama.cpp cannot load {path}.")
        self.vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))
        self.batch = c.llama_batch_init(512, 0, 1)

    def tokens(self, prompt: list[int], count: int) -> Iterator[int]:
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
    """A model whose words are its ids (benchmarks/formats.py)."""

    def __init__(self, path: str, threads: int, _: str) -> None:
        import ctranslate2

        kind = "int8" if path.endswith("int8") else "float32"
        self.model = ctranslate2.Generator(path, device="cpu", intra_threads=threads, compute_type=kind)

    def tokens(self, prompt: list[int], count: int) -> Iterator[int]:
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
    """A stateful model asked step by step; its file brings the settings that benchmarks/formats.py chose."""

    def __init__(self, path: str, threads: int, precision: str) -> None:
        import openvino as ov

        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        if precision == "fp32":  # where the processor has bfloat16, it would be used unasked
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        self.request = ov.Core().compile_model(Path(path, "model.xml"), "CPU", settings).create_infer_request()
        self.ov = ov

    def tokens(self, prompt: list[int], count: int) -> Iterator[int]:
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


ENGINES: dict[str, Any] = {
    "cutaway": Cutaway,
    "transformers": Transformers,
    "llama.cpp": LlamaCpp,
    "CTranslate2": CTranslate2,
    "OpenVINO": OpenVINO,
}


def generated(engine: Engine, prompt: list[int], count: int) -> dict[str, Any]:
    start = time.perf_counter()
    tokens, times = [], []
    for found in engine.tokens(prompt, count):
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


def main() -> None:
    name, path, threads, precision = sys.argv[1:5]
    answers = os.fdopen(os.dup(1), "w")  # what an engine prints goes with the errors
    os.dup2(2, 1)
    engine = ENGINES[name](path, int(threads), precision)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "prompt" in asked:
            answer: dict[str, Any] = generated(engine, asked["prompt"], asked["count"])
        elif "windows" in asked:
            answer = losses(engine, asked["windows"])
        else:
            scale = 1 if sys.platform == "darwin" else 1024
            answer = {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
