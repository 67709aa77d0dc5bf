"""Text as bytes: where it is cut, and which parts are for validation. Pure.

cuts.py         where text may be cut so that the pieces give the tokens of the whole
val_split.py    which bytes or documents go to val: windows, and the effective ratio
documents.py    separators, end-of-text marks, and the split that a document goes to
blocks.py       Position and Block, the unit of work, and the memory that a record needs
cutting.py      cut text into blocks
decoding.py     decode a block as text mode does
utf8.py         check and count UTF-8

It must not depend on files or engines.
"""
