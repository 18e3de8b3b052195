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
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from turns import OURS, THEIRS, in_turn

import cutaway
from cutaway.look import record
from cutaway.tasks import sentences

REST = 0.02
Work = Callable[[list[int]], torch.Tensor]


def without(work: Work) -> Work:
    """As it was before they took turns."""

    def one_with_the_other(text: list[int]) -> torch.Tensor:
        def as_it_is(*_: Any) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext()

        with mock.patch.object(record, "in_turn", as_it_is), mock.patch.object(sentences, "in_turn", as_it_is):
            return work(text)

    return one_with_the_other


def same(first: torch.Tensor, *others: torch.Tensor) -> bool:
    return all(torch.allclose(first, other, atol=1e-3) for other in others)


def compare(what: str, workers: dict[str, Work], text: list[int], turns: int) -> None:
    medians = in_turn(workers, [text] * (turns + 1), same, REST)
    ours = medians[OURS]
    beside = "".join(f"   {name} {1000 * its:6.1f} ({its / ours:.2f})" for name, its in medians.items() if name != OURS)
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

    def their_vector(text: list[int]) -> torch.Tensor:
        return bert(torch.tensor([text])).last_hidden_state[0].mean(0)

    def their_run(text: list[int]) -> torch.Tensor:
        return gpt(torch.tensor([text]), output_hidden_states=True, output_attentions=True).logits[0, -1]

    print(f"{torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        for model in (bert, gpt):
            model.save_pretrained(Path(folder) / model.config.model_type)
        for quantize in (None, "int8", "int4"):
            reader = cutaway.load(Path(folder) / "bert", quantize=quantize)
            runner = cutaway.load(Path(folder) / "gpt2", quantize=quantize)

            def vector(text: list[int], model: Any = reader) -> torch.Tensor:
                return sentences.embed(model.machine, [text], sentences.Pooling())[0]

            def run(text: list[int], model: Any = runner) -> torch.Tensor:
                return model.run(tokens=text)["logits.last"]

            both = {"BERT, a vector": (vector, their_vector), "GPT-2, recorded": (run, their_run)}
            for count in asked.tokens:
                text = list(range(5, 5 + count))
                for name, (ours, theirs) in both.items():
                    workers = {OURS: ours, "without": without(ours)}
                    if quantize is None:
                        workers[THEIRS] = theirs
                    compare(f"{name}, {quantize or 'float32'}, {count} tokens", workers, text, asked.turns)


if __name__ == "__main__":
    main()
