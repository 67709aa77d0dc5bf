"""Output: the files of tokens.

layout.py        names, headers and lengths of the files
token_file.py    an append-only file of tokens that grows through a small mapped window
folders.py       the folder of unfinished files
writer.py        write tokens to working files
written.py       what is on the disk: unfinished or published; check it, and give it final names
ends.py          where documents end: kept next to the tokens while a run lasts
index.py         write Megatron's index of documents from these ends
pieces.py        the random order of documents, and putting pieces of them into it
spill.py         a file of sorted windows, which a shuffle is made from
shuffle.py       read a spill in order, to another spill or to the output
open.py          open a finished file of any of these forms
stream.py        read the tokens of one file, or of many as if they were one; find a document
checksums.py     a CRC-32 for each file, and for each 64 MiB of it
check.py         compare files with their checksums
reader.py        read finished token files back, and compare them
finished.py      the same for all finished files, with the indexes
consumers.py     what the training programs that read the output need

It must not import input.
"""

FORMATS = ("bin", "npy", "llmc")
