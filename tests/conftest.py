"""Every test runs on the CPU and on the JAX backend, unless the shell says otherwise, compiles quickly, and starts from the same global seeds."""
import gc
import os
import runpy
import sys
from pathlib import Path

# the shell may have said so already (.ci/test): its processes need not try XLA's flags again
if "NEWSREX_QUICK" not in os.environ:
    os.environ.update(runpy.run_path(str(Path(__file__).parents[1] / ".ci/quick.py"))["settings"](), NEWSREX_QUICK="1")

import random

import pytest

gc.set_threshold(50_000, 20, 50)  # a trace makes many small objects and no rubbish: a tenth of the time went into looking for some


@pytest.fixture(autouse=True)
def same_start():
    "The package reads no global seed; what other packages draw from one is the same in every order of the tests."
    random.seed(0)
    if "numpy" in sys.modules: sys.modules["numpy"].random.seed(0)
