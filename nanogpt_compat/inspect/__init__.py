"""Look inside finished token files, for `--inspect`.

show.py        the one function that is called from outside
dataset.py     which token files a folder holds, and whether they are as prepare.json says
overview.py    what is in them, in lines for people, and what an unfinished run has saved
table.py       the table of inputs, and text folded into lines
place.py       one place: the text around a token, or a document

It writes nothing. Counts come from prepare.json where there is one, and the rest from a few samples, so that
20 GB take a second or so.
"""
