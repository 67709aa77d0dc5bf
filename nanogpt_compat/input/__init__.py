"""Inputs: find them, detect what they hold, and read them in blocks.

location.py      Url and Format: where an input is, and how it is read
source.py        Source: the inputs of a run, and how they are cut into blocks
find.py          turn the arguments of --input into an ordered list of files
open.py          open a local file, a remote file or a pipe
local.py         a local file, kept out of the page cache
pipes.py         a pipe with the interface of a file
remote.py        files on servers, read by ranges
server.py        one server, reached through fsspec, with retries
failures.py      what a server's error means, and what to tell the user
compressed.py    gzip, bzip2, xz and zstd as a stream of uncompressed bytes
formats.py       the format of each input, by its first bytes
sniff.py         what an input holds, by its first bytes, then by its name
signatures.py    the first bytes of files that are not text
kinds.py         kinds of input that must be converted before they can be read
charsets.py      guess the charset of text that is not UTF-8
jsonshape.py     how JSON is laid out in a file
separated.py     documents between separators, in blocks
records.py       JSON lines and rows of tables, in blocks
jsonl.py         documents in JSON lines
strings.py       decode the long strings of a JSON line in parts
tables.py        documents in a column of a parquet file
pages.py         the sizes of the pages of such a column
quota.py         stop after the number of characters that --n asks for
boundaries.py    where a span of an input begins
samples.py       sample an input to check that it is UTF-8 text
excerpts.py      sample an input for the forecast
print.py         check that an input is still what it was when it was read
fields.py        check that each input has its text in the requested field
ways_out.py      find the field that has the text instead
repairs.py       shell commands that turn bad records into good ones
remedies.py      messages about inputs that cannot be read, with commands that help

It must not depend on the output or on tokens.
"""
