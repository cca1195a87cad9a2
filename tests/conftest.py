"""Every test runs on the CPU and on the JAX backend, unless the shell says otherwise, and starts from the same global seeds."""
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("PYTHONHASHSEED", "0")  # for the processes that tests start
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")  # compiles five times as fast

import random
import sys

import pytest


@pytest.fixture(autouse=True)
def same_start():
    "The package reads no global seed; what other packages draw from one is the same in every order of the tests."
    random.seed(0)
    if "numpy" in sys.modules: sys.modules["numpy"].random.seed(0)
