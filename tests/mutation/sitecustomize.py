"""Python imports this when it starts below PYTHONPATH: break the program as a test has asked."""

import os
import sys
from pathlib import Path

if "PREPARE_MUTANT" in os.environ:
    repository = str(Path(__file__).resolve().parents[2])
    sys.path.insert(0, repository)
    from tests import mutants

    mutants.apply(os.environ[mutants.VARIABLE])
    sys.path.remove(repository)
