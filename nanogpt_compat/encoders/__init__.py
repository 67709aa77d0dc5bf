"""Encoders: text into tokens, with tiktoken (the reference) or gigatoken (some ten times faster).

interface.py     the interface of an engine
reference.py     tiktoken
fast.py          gigatoken, checked against tiktoken during the run
bounded.py       keep gigatoken's word cache within a memory limit
new_letters.py   the letters on which the two may disagree
choose.py        choose the engine of a run
vocabulary.py    GPT-2's vocabulary, from a cache, a folder, a package or the network
block.py         encode one block: a stretch of text, or its documents
decode.py        text of tokens
forecast.py      forecast tokens and time from samples

It must not know where text comes from.
"""

ENGINES = ("auto", "tiktoken", "gigatoken")
GIGATOKEN_VERSIONS = ("0.10",)  # that are tested; earlier ones do not accept ranks
