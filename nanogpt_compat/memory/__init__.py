"""Memory: stay within the limits.

limits.py    read the limits: cgroups, rlimits, the machine; and count the CPUs
usage.py     resident memory of this process, now and at its peak
policy.py    decide when to throttle and when to stop: pure functions of readings
guard.py     read the limits, decide, and tell the pipeline
malloc.py    make the C library return freed memory

It must not know tokens.
"""
