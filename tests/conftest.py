"""Every test runs on the CPU and on the JAX backend, unless the shell says otherwise, and starts from the same global seeds."""
import os
import subprocess
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("PYTHONHASHSEED", "0")  # for the processes that tests start

QUICK = "--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false"  # compiles five times as fast


def with_quick_compilation(flags):
    "XLA's flags as the shell gives them, and those of QUICK that it does not name and this XLA knows: an unknown one ends a process."
    wanted = [flag for flag in QUICK if flag.partition("=")[0] not in flags]
    for tried in (wanted, *([flag] for flag in wanted)):
        tried = " ".join([*tried, flags]).strip()
        code = "import jax.numpy as jnp; jnp.zeros(1).block_until_ready()"
        if not subprocess.run([sys.executable, "-c", code], env={**os.environ, "XLA_FLAGS": tried}, capture_output=True).returncode:
            return tried
    return flags


os.environ["XLA_FLAGS"] = with_quick_compilation(os.environ.get("XLA_FLAGS", ""))

import random

import pytest


@pytest.fixture(autouse=True)
def same_start():
    "The package reads no global seed; what other packages draw from one is the same in every order of the tests."
    random.seed(0)
    if "numpy" in sys.modules: sys.modules["numpy"].random.seed(0)
