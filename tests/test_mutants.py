"""What scripts/mutants breaks is still there to be broken, and so are the tests that notice."""

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import REPOSITORY


def load(name: str) -> ModuleType:
    loader = SourceFileLoader(name, str(REPOSITORY / "scripts" / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look it up
    loader.exec_module(module)
    return module


MUTANTS = load("mutants").MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_it_applies_in_one_place_and_its_tests_are_there(mutant: Any) -> None:
    module = (REPOSITORY / "nanogpt_compat" / mutant.module).read_text(encoding="utf-8")
    assert module.count(mutant.old) == 1
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert not name or f"def {name.partition('[')[0]}(" in (REPOSITORY / path).read_text(encoding="utf-8")
