"""Inputs: find them, detect what they hold, and read them in blocks.

reader.py        the interface of a reader, which is everything that differs by format
source.py        the readers by format; the inputs of a run, in blocks
text.py          the reader of plain text
separated.py     the readers of text with documents: between separators, or each file is one
lines.py         the reader of JSON lines
delimited.py     the reader of CSV and TSV
table.py         the reader of a column of a table; for these two formats:
parquet.py       parquet
arrow.py         Arrow files and streams
location.py      Url and Format: where an input is, and how it is stored
find.py          turn the arguments of --input and --val-input into an ordered list of files
open.py          open an input: a local file, a remote file or a pipe
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
fieldpath.py     find the text field in a record or among the columns of a table
jsonl.py         parse JSON lines
native.py        parse most JSON lines with msgspec
strings.py       decode the long strings of a JSON line in parts
records.py       what the readers of JSON lines and of CSV share
runs.py          cut a stream of bytes into runs of whole records
cells.py         parse records of CSV
rows.py          rows of a table: their places, checksum and documents
columns.py       the column of texts of an open table; what its formats share that needs pyarrow
pages.py         the sizes of the pages of a column of parquet
messages.py      find the record batches of an Arrow file, and the buffers in them
buffers.py       read such a buffer in pieces
arrays.py        Arrow arrays of texts, of every layout
samples.py       sample an input: is it UTF-8 text, and how many tokens will it have?
fields.py        check that each input has its text in the requested field, or find it elsewhere
repairs.py       shell commands that turn bad records into good ones
remedies.py      messages about inputs that cannot be read, with commands that help

It must not depend on the output or on tokens.
"""
