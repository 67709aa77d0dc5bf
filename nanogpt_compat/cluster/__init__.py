"""One run on many machines: a plan of spans, their parts, and the merge.

plan.py         the frozen plan: inputs, spans, options
worker.py       do one span
parts.py        the parts that are done, and the sidecars that commit them
driver.py       run spans on an executor or as a rank, then merge
executors.py    processes of this machine, or a Dask cluster
"""
