"""How fast a model writes and reads here, beside what the machine allows and beside other engines.

worker.py is one engine in a process of its own, processes.py asks it, limits.py measures the machine, measure.py takes
the turns, and report.py prints them. The repository's benchmarks/ use the same.
"""
