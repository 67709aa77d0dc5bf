"""Memory: stay within the limits.

limits.py    read the limits (cgroups, rlimits, the machine) and the use of memory; count the CPUs
policy.py    decide when to throttle and when to stop: pure functions of readings
guard.py     read the limits, decide, and tell the pipeline
malloc.py    make the C library return freed memory

It must not know tokens.
"""
