"""The operating system and the terminal.

filesystem.py    durable writes, page cache, kinds of file systems
signals.py       end at a signal, at once or after saving; Python 3.6 can read it
threads.py       start threads where memory may be refused
display.py       standard streams that never fail a run; logs and warnings
voice.py         the messages and the progress of a run, and its signal to stop
progress.py      progress as a bar or as lines
feed.py          progress as JSON, for programs
redaction.py     keep secrets out of every text that leaves the process
checkout.py      which files git would add
arguments.py     what errors of options say, and the form of the help
commands.py      commands for messages, quoted for the shell
ranks.py         the rank of this process, from options or a scheduler's variables
units.py         parse and format sizes, counts, times

It must not know any other room.
"""
