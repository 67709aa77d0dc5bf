"""Turn text into tokens: tiktoken, which is the reference, or gigatoken, which is some ten times as fast.

interface.py    what the pipeline needs of an engine
reference.py    tiktoken
fast.py         gigatoken, kept in bounds and checked against tiktoken as it goes
classes.py      on which characters the two disagree
choose.py       which engine a run gets
"""

from nanogpt_compat.encoders.choose import ENGINES, OPENING_BYTES, TESTED, Choice, choose_encoder
from nanogpt_compat.encoders.interface import Encoder, EngineMismatch, Tokens
from nanogpt_compat.encoders.reference import TiktokenEncoder, with_mark

__all__ = [
    "ENGINES",
    "OPENING_BYTES",
    "TESTED",
    "Choice",
    "Encoder",
    "EngineMismatch",
    "TiktokenEncoder",
    "Tokens",
    "choose_encoder",
    "with_mark",
]
