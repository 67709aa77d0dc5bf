"""Resuming: what is durable, and whether a run may resume from it.

journal.py        one checksummed line of JSON a checkpoint
checkpoint.py     write checkpoints, and find the last sound one
counters.py       every counter of a run, as a checkpoint saves it
fingerprint.py    describe inputs and options, and compare descriptions
state.py          is what an earlier run left still good for these inputs and options?
lock.py           one run at a time in a folder

It must not print.
"""
