"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import nanogpt_compat


def test_every_example_gives_the_result_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stories.txt").write_text("One day, a cat sat on a mat.\n" * 10_000)
    names = ["nanogpt_compat"]
    names += [one.name for one in pkgutil.walk_packages(nanogpt_compat.__path__, "nanogpt_compat.")]
    found = [doctest.testmod(importlib.import_module(name)) for name in names]
    assert [name for name, one in zip(names, found, strict=True) if one.failed] == []
    assert sum(one.attempted for one in found) >= 40
