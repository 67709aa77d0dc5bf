"""Inputs: find them, tell what they hold, and read them in blocks.

location.py      Url and Format: where an input is, and how it is read
source.py        Source: the inputs of a run, and how they are cut into blocks
find.py          from the words after --input to files, in order
open.py          open an input, wherever it is
pipes.py         a pipe with the interface of a file
remote.py        files on servers, read by ranges
server.py        one server, reached through fsspec, with retries
failures.py      what the error of a server means, and what to tell the user
compressed.py    gzip and zstd as a stream of uncompressed bytes
formats.py       the format of each input, by its first bytes
sniff.py         what an input holds, by its first bytes, then by its name
signatures.py    the bytes that files which are not text begin with
kinds.py         what an input can be that is not read as it is
charsets.py      the charset of text that is not UTF-8
jsonshape.py     how JSON is laid out in a file
text.py          plain text in blocks
separated.py     documents between separators, in blocks
records.py       JSON lines and rows of tables, in blocks
jsonl.py         documents in JSON lines
strings.py       long strings of a line of JSON, in parts
tables.py        documents in a column of a parquet file
pages.py         the sizes of the pages of such a column
quota.py         stop at a number of characters
boundaries.py    where a span of an input begins
samples.py       samples of an input: is it text?
excerpts.py      samples of an input for the forecast
print.py         is an input still what it was when it was read?
fields.py        has each input its text in the field that was asked for?
ways_out.py      where the text is instead
repairs.py       shell commands that make documents of records
remedies.py      messages about inputs that are not read, with commands

It must know neither output nor tokens.
"""
