"""From the options as typed to the settings of a run: find the inputs, and check what depends on them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nanogpt_compat.config import DEFAULT_INPUT, DEFAULT_TEXT_FIELD, SEED, VAL_RATIO, Config, Share
from nanogpt_compat.errors import UsageError
from nanogpt_compat.input.find import find_inputs
from nanogpt_compat.input.formats import Asked, find_formats
from nanogpt_compat.input.location import Input
from nanogpt_compat.input.pipes import Pipe
from nanogpt_compat.memory.limits import available_cpus, default_workers
from nanogpt_compat.options import Options, option_meant
from nanogpt_compat.output.folders import check_is_folder
from nanogpt_compat.output.layout import FIRST_WORDS, MAX_LLMC_TOKENS, SHARD_TOKENS
from nanogpt_compat.system.ranks import rank_of
from nanogpt_compat.text.val_split import FIRST_SHARD, VAL_INPUT

_WITH_DOCUMENTS = "JSON lines, tables, or text with --document-separator or --one-document-per-file"


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is asked to do."""

    config: Config
    inputs: tuple[Input, ...]  # those of --val-input come last
    share: Share | None  # None: the run is on one machine
    notices: tuple[str, ...]  # about the inputs


def resolve(options: Options, *, home: Path | None) -> Request:
    """Find the inputs and their formats, and check the options against them and one another.

    `home` is the folder that default paths refer to, that of prepare.py; None is the current one.
    """
    if options.verify and (options.dry_run or options.restart):
        raise UsageError("--verify only reads what a run has made: omit --dry-run and --restart")
    folder = Path() if home is None else home
    _check_paths(options)
    found = find_inputs(
        options.input or [str(folder / DEFAULT_INPUT)], val_patterns=options.val_input or (), home=home
    )
    asked = Asked(
        separator=options.document_separator,
        errors_given=options.errors is not None,
        skips_bad_records=options.skip_bad_records,
        text_field=options.text_field,
        # Inputs of both options may have to be converted, and only one can be a pipe.
        may_pipe=not (options.is_for_many or found.n_val_inputs),
    )
    n_train = len(found.inputs) - found.n_val_inputs
    formats, notices = find_formats(found.inputs[:n_train], asked)
    if found.n_val_inputs:
        val_formats, val_notices = find_formats(found.inputs[n_train:], replace(asked, option=VAL_INPUT))
        formats, notices = (*formats, *val_formats), [*notices, *val_notices]
    inputs = tuple(map(Input, found.inputs, formats))
    is_split = options.document_separator is not None or options.one_document_per_file
    has_documents = is_split or any(one.form.has_records for one in inputs)
    for one in inputs:
        if has_documents and not is_split and not one.form.has_records:
            raise UsageError(
                f"{one.location} is plain text, and another input holds documents: give the "
                "--document-separator of the text or --one-document-per-file, or read it in a separate run"
            )
    _check_effects(options, inputs)
    _check_shuffle(options, has_documents=has_documents)
    shard_tokens, shard_name = _shards(options)
    val_split = _val_split(options, has_documents=has_documents)
    if options.eot is not None and not has_documents:
        raise UsageError(f"--eot needs documents: {_WITH_DOCUMENTS}")
    config = Config(
        output_dir=options.output_dir or folder,
        has_documents=has_documents,
        n_val_inputs=found.n_val_inputs,
        n_chunks=options.n,
        max_tokens=options.max_tokens,
        val_ratio=VAL_RATIO if options.val_ratio is None else options.val_ratio,
        val_split=val_split,
        separator=options.document_separator,
        one_document_per_file=options.one_document_per_file,
        eot=options.eot or ("append" if options.format == "bin" else "prepend"),
        output_format=options.format,
        shard_tokens=shard_tokens,
        shard_name=shard_name,
        index=_index(options, has_documents=has_documents),
        shuffle=options.shuffle,
        seed=SEED if options.shuffle and options.seed is None else options.seed,
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
    if config.val_split in ("head", "tail") and any(one.is_stream for one in inputs):
        raise UsageError(
            f"--val-split {config.val_split} needs the size of the text, which is unknown for a pipe and for "
            "compressed text; give spread or none"
        )
    if config.max_tokens is not None and config.val_split == "tail":
        raise UsageError(
            "--val-split tail is the end of the input, which --max-tokens may not reach; give spread, head "
            "or none"
        )
    return Request(config, inputs, _share(options, config, inputs), (*found.notices, *notices))


def _check_paths(options: Options) -> None:
    """Raise an error for folders that are files, and for inputs that are misspelt options."""
    for option, folder in (("--output-dir", options.output_dir), ("--work-dir", options.work_dir)):
        if folder is not None:
            check_is_folder(option, folder)
    for word in (*(options.input or ()), *(options.val_input or ())):
        if (option := option_meant(word)) and not os.path.lexists(word):
            raise UsageError(f"{word} is not a file; did you mean {option}? --help lists the options")


def _check_effects(options: Options, inputs: Sequence[Input]) -> None:
    """Raise UsageError for an option without effect on these inputs: it was given for a reason."""
    has_records = any(one.form.has_records for one in inputs)
    has_text = not all(one.form.has_records for one in inputs)
    for option, is_given, has_effect in (
        ("--text-field", options.text_field is not None, has_records),
        ("--skip-bad-records", options.skip_bad_records, has_records),
        ("--errors", options.errors is not None, has_text),
        ("--document-separator", options.document_separator is not None, has_text),
        ("--one-document-per-file", options.one_document_per_file, has_text),
    ):
        if is_given and not has_effect:
            there = "JSON lines or tables" if has_records else "plain text"
            raise UsageError(f"{option} has no effect: all of the input is {there}; run without it")
    if options.one_document_per_file and options.document_separator is not None:
        raise UsageError(
            "--document-separator and --one-document-per-file both say where a document ends: give only one"
        )
    if options.val_split == "none" and options.val_ratio:
        raise UsageError(
            f"--val-ratio {options.val_ratio:g} has no effect with --val-split none: give only one"
        )
    if options.val_ratio == 0 and options.val_split not in (None, "none"):
        raise UsageError(
            f"--val-split {options.val_split} has no effect with --val-ratio 0: give only one of them"
        )


def _share(options: Options, config: Config, inputs: Sequence[Input]) -> Share | None:
    """Return the part of this process in a run on many machines; None for a run on one."""
    is_rank = options.rank is not None
    if options.world_size is not None and not is_rank:
        raise UsageError("--world-size says how many ranks there are: give --rank R or --rank auto too")
    if not options.is_for_many:
        if options.work_dir is not None:
            raise UsageError(
                "--work-dir is for a run on many machines: give --cluster, --rank or --merge too"
            )
        return None
    if options.work_dir is None:
        raise UsageError("--cluster, --rank and --merge need --work-dir DIR, which all machines can reach")
    if is_rank and (options.cluster is not None or options.merge or options.restart):
        raise UsageError("--rank only encodes its spans: omit --cluster, --merge and --restart")
    limits = {"--n counts characters": options.n, "--max-tokens counts tokens": options.max_tokens}
    if given := [one for one, limit in limits.items() if limit is not None]:
        raise UsageError(f"{given[0]} from the beginning, which spans cannot do: omit it")
    if any(isinstance(one.location, Pipe) for one in inputs):
        raise UsageError("a pipe can be read by one process only; write it to a file first")
    has_windows = not config.has_documents and config.val_split == "spread" and config.has_val
    if has_windows and any(one.is_stream for one in inputs):
        raise UsageError(
            "validation windows in compressed text depend on all of the text before them, which is in other "
            "spans: give --val-split none, --document-separator or --one-document-per-file"
        )
    if options.dry_run or options.verify:
        raise UsageError("--dry-run and --verify are for one machine: omit --cluster, --rank and --merge")
    rank = None if options.rank is None else rank_of(options.rank, options.world_size, os.environ)
    return Share(options.work_dir.absolute(), options.span_size, options.cluster, rank, options.merge)


def _check_shuffle(options: Options, *, has_documents: bool) -> None:
    """Raise UsageError if `--shuffle` cannot be done, or `--seed` has no effect."""
    if options.seed is not None and not options.shuffle:
        raise UsageError("--seed decides the order of --shuffle, and has no effect without it")
    if options.shuffle and not has_documents:
        raise UsageError(
            f"--shuffle needs documents: {_WITH_DOCUMENTS}; for paragraphs, give --document-separator "
            "'\\n\\n'"
        )
    if options.shuffle and options.cluster is not None and not options.merge:
        raise UsageError(
            "--shuffle shuffles while it joins the parts: give --merge too, or shuffle in a later --merge "
            "with the same options"
        )


def _val_split(options: Options, *, has_documents: bool) -> str:
    """Choose whole documents for validation where there are documents, else windows."""
    if options.val_input:
        _refuse_split(options, "--val-input, which is all of val: give only one of them")
        return VAL_INPUT
    split: str = options.val_split or ("documents" if has_documents else "spread")
    if options.format != "bin":
        if options.val_split == "none" or options.val_ratio == 0:
            return "none"
        _refuse_split(
            options,
            f"--format {options.format}: its readers take the first shard for validation; give --val-split "
            "none to use it for training",
        )
        return FIRST_SHARD
    if has_documents and split not in ("documents", "none"):
        raise UsageError(
            f"--val-split {split} would cut documents in two; give --val-split documents or none"
        )
    if split == "documents" and not has_documents:
        raise UsageError(f"--val-split documents needs documents: {_WITH_DOCUMENTS}")
    return split


def _refuse_split(options: Options, why: str) -> None:
    """Raise UsageError if an option of the split is given, because another option rules it out."""
    for option, value in (("--val-split", options.val_split), ("--val-ratio", options.val_ratio)):
        if value is not None:
            raise UsageError(f"{option} {value} does not go with {why}")


def _index(options: Options, *, has_documents: bool) -> bool:
    if not options.index:
        return False
    for option, value in (("--format", options.format), ("--shard-tokens", options.shard_tokens)):
        if value not in ("bin", None):
            raise UsageError(
                f"--index is for one train.bin, which {option} {value} does not make: omit either"
            )
    if not has_documents:
        raise UsageError(f"--index needs documents: {_WITH_DOCUMENTS}")
    return True


def _shards(options: Options) -> tuple[int | None, str | None]:
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
