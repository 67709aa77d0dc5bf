"""Memory: stay within it.

limits.py    cgroups, rlimits, the machine; and the number of CPUs
usage.py     resident memory of this process, now and at its peak
policy.py    when to throttle and when to stop: pure functions of readings
guard.py     read the limits, decide, and tell the pipeline
malloc.py    have the C library return freed memory

It must not know tokens.
"""
