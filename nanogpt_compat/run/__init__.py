"""Running a job: make its output, or compare output with what it should be.

run.py         a run from its start, or from where an earlier one stopped, to its end
complete.py    is complete output that of this job?
passes.py      fill the files with tokens, with checkpoints; the passes of a shuffle
publishing.py  final names, and the report
contents.py    the contents of the report
notices.py     what is printed before and after
supervise.py   locks, memory guard, signals and progress
verify.py      --verify: encode the input again, and compare every token
check.py       --check: compare files with the checksums in prepare.json

It must not know clusters: a merge passes the `Fill` that writes the files.
"""
