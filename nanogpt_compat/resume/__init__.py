"""Resuming: save progress durably, and decide whether a run can resume from it.

journal.py        one checksummed line of JSON per checkpoint
checkpoint.py     write checkpoints, and find the last valid one
counters.py       all counters of a run, as a checkpoint saves them
fingerprint.py    describe inputs and options, and compare descriptions
state.py          can these inputs and options resume what an earlier run has saved?
lock.py           one run at a time in a folder

It must not print.
"""
