"""Ways to break a promise of the program, each in one place; test_mutants.py shows that a test notices each.

`apply` replaces a function or a method of this process. tests/mutation/sitecustomize.py calls it in every
Python process below a folder in PYTHONPATH, so that programs that tests start are broken as well.
"""

import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

VARIABLE = "PREPARE_MUTANT"
"""The environment variable with the name of the mutant to apply."""

Break = Callable[[], None]
MUTANTS: dict[str, tuple[Break, tuple[str, ...]]] = {}
"""By name: a function that breaks the program, and arguments of pytest; at least one test must fail."""


def apply(name: str) -> None:
    """Break the program in this process."""
    MUTANTS[name][0]()


def noticed_by(*tests: str) -> Callable[[Break], Break]:
    """Register a mutant with the arguments of pytest for the tests that notice it."""

    def register(break_it: Break) -> Break:
        MUTANTS[break_it.__name__] = (break_it, tests)
        return break_it

    return register


def _replace(owner: Any, **new: object) -> None:
    for name, value in new.items():
        if not hasattr(owner, name):
            raise AttributeError(f"{owner} has no {name} any more: change the mutant")
        setattr(owner, name, value)


class _Os:
    """The module `os` with some calls replaced; the others are looked up late, as tests replace them, too."""

    def __init__(self, calls: dict[str, object]) -> None:
        vars(self).update(calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def _give_os(module: ModuleType, **calls: object) -> None:
    """Replace system calls for one module alone."""
    _replace(module, os=_Os(calls))


def _nothing(*_args: object, **_options: object) -> None:
    pass


# Durability


@noticed_by("tests/test_power_cut.py")
def data_is_not_synced() -> None:
    from nanogpt_compat.output.token_file import GrowingMemmap

    _replace(GrowingMemmap, begin_sync=lambda _: _nothing, sync=_nothing)


@noticed_by("tests/test_power_cut.py")
def journal_is_not_synced() -> None:
    from nanogpt_compat.resume import journal

    _give_os(journal, fsync=_nothing, fdatasync=_nothing)


@noticed_by("tests/test_failing_calls.py")
def failed_sync_is_tried_again() -> None:
    from nanogpt_compat.output import token_file

    def fsync(fd: int) -> None:
        try:
            os.fsync(fd)
        except OSError:
            os.fsync(fd)

    _give_os(token_file, fsync=fsync)


@noticed_by("tests/test_failing_calls.py::test_folders_above_the_journal_are_durable_before_the_first_record")
def names_of_folders_are_not_synced() -> None:
    from nanogpt_compat.output import folders, written

    for module in (folders, written):
        _replace(module, sync_folder=_nothing)


@noticed_by("-m", "", "tests/test_power_cut.py", "-k", "some and shuffle")
def spill_is_not_synced() -> None:
    from nanogpt_compat.output.spill import SpillWriter

    begin_checkpoint = SpillWriter.begin_checkpoint

    def begin_without_sync(self: Any) -> tuple[Any, Any]:
        for stream in self._streams.values():
            stream.begin_sync = lambda: _nothing  # the method would begin it at once
        return begin_checkpoint(self)

    _replace(SpillWriter, begin_checkpoint=begin_without_sync)


@noticed_by("tests/test_shuffle.py::test_a_damaged_spill_is_noticed_before_it_is_read")
def damaged_spill_is_read() -> None:
    from nanogpt_compat.run import passes

    _replace(passes, unpublished=lambda _: {})


@noticed_by("tests/test_shuffle.py::test_killed_at_any_call_it_ends_in_the_same_files")
def second_pass_forgets_which_pieces_are_done() -> None:
    from nanogpt_compat.output import shuffle

    in_order: Any = shuffle._in_order

    def from_the_key(spill: Any, first: int, last: int, key: int, _: int, check: Any) -> Any:
        return in_order(spill, first, last, key, 0, check)

    _replace(shuffle, _in_order=from_the_key)


@noticed_by("tests/test_journal.py")
def torn_journal_is_not_cut() -> None:
    from nanogpt_compat.resume import journal

    _give_os(journal, ftruncate=_nothing)


@noticed_by("tests/test_resume_damage.py")
def damaged_data_counts_as_sound() -> None:
    from nanogpt_compat.resume import checkpoint

    _replace(checkpoint, is_sound=lambda *_: True)


@noticed_by("tests/test_resume_changes.py", "tests/test_resume_edits.py")
def changed_input_is_not_noticed() -> None:
    from nanogpt_compat.run import run

    _replace(run, changed_inputs=lambda *_args, **_options: iter(()))


@noticed_by("tests/test_resume.py::test_a_second_run_is_refused_too_if_links_lead_both_to_one_file")
def only_the_output_folder_is_locked() -> None:
    from nanogpt_compat.run import run, supervise

    locked = supervise.locked
    _replace(run, locked=lambda folders: locked(folders[-1:]))


@noticed_by("tests/test_cluster.py::test_a_text_that_was_edited_between_two_spans_is_not_put_together")
def changed_input_of_a_part_is_not_noticed() -> None:
    from nanogpt_compat.cluster import parts

    _replace(parts, changed_inputs=lambda *_args, **_options: iter(()))


@noticed_by("tests/test_check.py::test_a_flipped_bit_is_found_with_its_section_and_both_checksums")
def damaged_output_passes_the_check() -> None:
    from nanogpt_compat.output import check

    _replace(check, _wrong_sections=lambda *_: [])


@noticed_by("tests/test_checksums.py::test_files_that_are_links_and_empty_files_have_them")
def checksums_are_of_something_else() -> None:
    from nanogpt_compat.output import writer, written

    for module in (writer, written):
        _replace(module, crc32=lambda data, crc=0: (crc + len(data)) % (1 << 32))


# Exactness


@noticed_by("tests/test_exactness.py")
def text_is_cut_anywhere() -> None:
    from nanogpt_compat.text import cutting

    _replace(cutting, last_cut=lambda _, start, end: end - 1 if end - 1 > start else None)


@noticed_by("tests/test_documents.py::test_a_separator_after_a_long_document_is_found_on_any_edge_of_a_block")
def separator_across_two_blocks_is_missed() -> None:
    from nanogpt_compat.input import separated
    from nanogpt_compat.text import cutting

    _replace(separated._DocumentWindow, last_cut=cutting.Window.last_cut)


@noticed_by("tests/test_engine.py::test_one_such_character_in_a_long_text_is_enough")
def characters_that_engines_differ_on_are_not_looked_for() -> None:
    from nanogpt_compat.encoders import fast

    _replace(fast, has_new_letter=lambda _: False)


@noticed_by("tests/test_engine_mismatch.py")
def engine_is_not_checked() -> None:
    from nanogpt_compat import pipeline

    def places_to_check(_: object) -> Sequence[int]:
        return []

    _replace(pipeline, places_to_check=places_to_check)


# Memory


@noticed_by(
    "tests/test_engine.py::test_the_cache_is_bounded_over_a_long_stream_of_words_that_never_come_again"
)
def words_are_never_forgotten() -> None:
    from nanogpt_compat.encoders.bounded import BoundedTokenizer

    _replace(BoundedTokenizer, renew=_nothing)


@noticed_by(
    "tests/test_long_records.py::test_the_saved_work_is_finished_with_the_memory_that_the_message_names"
)
def long_records_are_read_without_room() -> None:
    from nanogpt_compat.memory.guard import MemoryGuard

    _replace(MemoryGuard, check_room=_nothing)


@noticed_by("tests/test_memory_stop.py")
def guard_never_stops_the_run() -> None:
    from nanogpt_compat.memory import policy

    _replace(policy, decide=lambda _readings, state, _now_s: (state, None))


@noticed_by("tests/test_limits.py")
def page_cache_counts_as_use() -> None:
    from nanogpt_compat.memory import limits

    _replace(limits, parse_stat=lambda _: {})


@noticed_by("tests/test_streams.py")
def pipe_is_kept_in_memory() -> None:
    from nanogpt_compat.input import pipes

    _replace(pipes, KEPT_BYTES=1 << 40)
