"""How fast short texts are read: by PyTorch and the kernels in turn (native/product.py), as it was without, and by
`transformers`.

    python benchmarks/short.py [--tokens 4 12 30 64] [--turns 20]

Random weights of BERT base's shape, a text to a vector, and of GPT-2 small's, a run of which everything is recorded,
beside the same with hidden states and attentions; float32, and int8 and int4, which transformers has not. In turn, in
one process, with a rest in between, as of someone who types. Prints medians in milliseconds, and the time without and
theirs as multiples of ours.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers

import cutaway
from cutaway.look import record
from cutaway.tasks import sentences

REST, WARM = 0.02, 3
Work = Callable[[], Any]


def without(work: Work) -> Work:
    """As it was before they took turns."""

    def one_with_the_other() -> Any:
        def as_it_is(*_: Any) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext()

        with mock.patch.object(record, "in_turn", as_it_is), mock.patch.object(sentences, "in_turn", as_it_is):
            return work()

    return one_with_the_other


def compare(what: str, workers: dict[str, Work], turns: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for turn in range(turns + WARM):
        for name, work in workers.items():
            time.sleep(REST)
            began = time.perf_counter()
            work()
            if turn >= WARM:
                seconds[name].append(time.perf_counter() - began)
    ours, *others = (statistics.median(taken) for taken in seconds.values())
    names = list(workers)[1:]
    beside = "".join(f"   {name} {1000 * its:6.1f} ({its / ours:.2f})" for name, its in zip(names, others, strict=True))
    print(f"{what:32} {1000 * ours:6.1f} ms{beside}", flush=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4, 12, 30, 64])
    parser.add_argument("--turns", type=int, default=20)
    asked = parser.parse_args()
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    bert = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).eval()
    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(attn_implementation="eager")).eval()
    print(f"{torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        for model in (bert, gpt):
            model.save_pretrained(Path(folder) / model.config.model_type)
        for quantize in (None, "int8", "int4"):
            reader = cutaway.load(Path(folder) / "bert", quantize=quantize)
            runner = cutaway.load(Path(folder) / "gpt2", quantize=quantize)
            for count in asked.tokens:
                text = list(range(5, 5 + count))
                ids = torch.tensor([text])

                def vector(text: list[int] = text, model: Any = reader) -> Any:
                    return sentences.embed(model.machine, [text], sentences.Pooling())

                def run(text: list[int] = text, model: Any = runner) -> Any:
                    return model.run(tokens=text)["logits.last"]

                both: dict[str, tuple[Work, Work]] = {
                    "BERT, a vector": (vector, lambda ids=ids: bert(ids).last_hidden_state.mean(1)),
                    "GPT-2, recorded": (
                        run,
                        lambda ids=ids: gpt(ids, output_hidden_states=True, output_attentions=True).logits,
                    ),
                }
                for name, (ours, theirs) in both.items():
                    workers = {"cutaway": ours, "without": without(ours)}
                    if quantize is None:
                        workers["transformers"] = theirs
                    compare(f"{name}, {quantize or 'float32'}, {count} tokens", workers, asked.turns)


if __name__ == "__main__":
    main()
