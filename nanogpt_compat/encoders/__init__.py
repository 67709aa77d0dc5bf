"""Encoders: text into tokens, with tiktoken (the reference) or gigatoken (some ten times faster).

interface.py     what the pipeline needs of an engine
reference.py     tiktoken
fast.py          gigatoken, checked against tiktoken as it goes
bounded.py       keep gigatoken's word cache within its memory
classes.py       the characters on which the two disagree
choose.py        the engine that a run gets
vocabulary.py    GPT-2's vocabulary, from a cache, a folder, a package or the network
block.py         encode one block: a stretch of text, or its documents

It must not know where text comes from; block.py still does.
"""
