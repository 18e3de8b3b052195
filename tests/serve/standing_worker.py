"""The real worker, whose next step hangs where a text ends with token 7, and fails where it ends with token 8."""

import runpy
import time

from cutaway.generate.batch import Batch

taken, step, ends = Batch.submit, Batch.step, []


def submit(self, request):
    ends.append(request.ids[-1])
    return taken(self, request)


def stepped(self):
    if 7 in ends:
        time.sleep(3600)
    if 8 in ends:
        raise RuntimeError("the step failed")
    return step(self)


Batch.submit, Batch.step = submit, stepped
runpy.run_module("cutaway.serve", run_name="__main__")
