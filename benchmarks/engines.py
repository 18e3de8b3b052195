"""Engines with formats of their own (formats.py), asked as Cutaway and transformers are: see cutaway/bench/worker.py.

Runs as that does, as a file, in the peers' environment.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "src" / "cutaway" / "bench"))  # no Cutaway is installed there
import worker

CONTEXT = 1024


class LlamaCpp:
    """Through its C functions: the class that llama-cpp-python puts around them costs time for each token."""

    def __init__(self, path: str, threads: int, asked: dict[str, str | None]) -> None:
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

    def __init__(self, path: str, threads: int, asked: dict[str, str | None]) -> None:
        import ctranslate2

        kind = "int8" if path.endswith("int8") else "float32"
        self.model = ctranslate2.Generator(path, device="cpu", intra_threads=threads, compute_type=kind)

    def tokens(self, prompt: list[int], count: int) -> Iterator[int]:
        written = worker.Streamed()

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

    def __init__(self, path: str, threads: int, asked: dict[str, str | None]) -> None:
        import openvino as ov

        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        if asked["dtype"] == "float32":  # where the processor has bfloat16, it would be used unasked
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


worker.ENGINES |= {"llama.cpp": LlamaCpp, "CTranslate2": CTranslate2, "OpenVINO": OpenVINO}
worker.NEEDS |= {"llama.cpp": ("llama_cpp",), "CTranslate2": ("ctranslate2",), "OpenVINO": ("openvino",)}

if __name__ == "__main__":
    worker.main()
