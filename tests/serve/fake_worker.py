"""A worker whose engine does as the text says: the protocol and the server are tested without a model.

The first word of the text: ``echo`` answers; ``slow SECONDS`` stops when cancelled; ``deaf SECONDS`` does not;
``die`` is killed; ``panic`` raises what is no Exception; ``refuse`` raises a CutawayError; ``fail`` an Exception;
``big BYTES`` answers that much; ``print`` writes to standard output;
``nonsense`` breaks the protocol; ``loads`` counts them. Two models stay loaded. Loading the model ``broken`` is
refused, ``deadly`` kills the process, ``large`` takes ten seconds.
"""

import json
import os
import signal
import sys
import time

from cutaway.errors import Misuse, NotFound, Refused
from cutaway.serve import worker


class Panic(BaseException):
    pass


class Fake:
    def __init__(self, tell):
        self.tell, self.ran, self.loads, self.loaded = tell, 0, 0, []

    def relist(self, check):
        names = ["small", "other", "broken", "deadly", "large"]
        self.tell({"models": [{"id": name, "name": name, "layers": 2} for name in names]})
        return {}, b""

    def rest(self):
        return False

    def start(self):
        self.relist(None)
        if "--never" in sys.argv:
            raise ImportError("No module named 'torch'")
        if "--late" in sys.argv:
            self.tell({"stage": "importing torch"})
            time.sleep(float(sys.argv[sys.argv.index("--late") + 1]))

    def load(self, check, *, model):
        if model == "broken":
            raise Refused("model.safetensors ends in the middle of a tensor.", "Download it again.")
        if model == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        if model == "large":
            for read in range(2000):
                self.tell({"stage": f"reading {model}: {read} of 2,000 MB"})
                time.sleep(0.005)
                check()
        self.loads += 1
        self.loaded = [*self.loaded[-1:], model]  # two stay
        self.tell({"loaded": self.loaded})
        return {}, b""

    def run(self, check, *, model, given, want):
        self.ran += 1
        verb, _, rest = given.get("text", "echo").partition(" ")
        body = repr((model, given, want)).encode()
        if verb in ("slow", "deaf"):
            end = time.monotonic() + float(rest)
            while time.monotonic() < end:
                time.sleep(0.005)
                if verb == "slow":
                    check()
        elif verb == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif verb == "panic":
            raise Panic("index out of range")
        elif verb == "refuse":
            raise Misuse("The text is empty.", "Type something.")
        elif verb == "fail":
            raise RuntimeError("shapes do not match\nand more")
        elif verb == "memory":
            raise MemoryError
        elif verb == "big":
            body = b"x" * int(rest)
        elif verb == "count":
            body = str(self.ran).encode()
        elif verb == "pid":
            body = str(os.getpid()).encode()
        elif verb == "loads":
            body = str(self.loads).encode()
        elif verb == "nonsense":
            self.tell.__self__._answers.write(b"\x10\0\0\0" + b"\0" * 8 + b"this is no JSON!")
        elif verb == "print":
            print("a stray print")
            os.write(1, b"a stray write")
        return {"record": f"{self.ran:016x}"}, body

    def tensor(self, check, *, record, name, at):
        if name == "missing":
            raise NotFound("There is no such record.", "Run the text again.")
        return {"shape": [2, 1]}, b"\0\0\0\0\0\0\x80\x3f"

    def explain(self, check, *, record, cell):
        return {}, json.dumps({"cell": cell, "terms": [], "value": "-inf"}).encode()

    def compare(self, check, *, first, second, at):
        return {}, json.dumps([first, second, at]).encode()

    def file(self, check, *, record, include, weights):
        return {}, repr((include, weights)).encode()

    def leave(self, number):
        """Nothing is written here."""

    def vocabulary(self, check, *, model):
        return {}, b'["a","b"]'


if __name__ == "__main__":
    worker.serve(Fake)
