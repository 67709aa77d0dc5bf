"""Before a run: what it will read and make. Nothing is written.

job.py     a run that is ready to start, and the options that decide its output
look.py    sample the inputs, choose the engine, forecast
checks.py  are the names of the output free, and does it fit on the disk?
words.py   what is printed before the run starts
"""
