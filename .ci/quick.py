"""What makes programs compile in a fraction of the time, for notebooks and tests alike, and where compiled ones are kept. Run by itself it prints
the lines that a shell evaluates: `eval "$(python .ci/quick.py)"`. Stored outputs are made without it: sums come in another order."""
import os
import shlex
import subprocess
import sys
from pathlib import Path

FLAGS = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false",
         "--xla_cpu_parallel_codegen_split_count=1")  # a program in one piece: by default it is cut for 32 threads, each with a beginning and an end
PROGRAMS = Path(__file__).resolve().parents[1] / ".cache/programs"


def known(flags):
    "Whether this XLA starts with these flags."
    code = "import jax.numpy as jnp; jnp.zeros(1).block_until_ready()"
    return not subprocess.run([sys.executable, "-c", code], env={**os.environ, "XLA_FLAGS": flags}, capture_output=True).returncode


def with_quick_compilation(flags):
    "XLA's flags as the shell gives them, and those of FLAGS that it does not name and this XLA knows: an unknown one ends a process."
    wanted = [flag for flag in FLAGS if flag.partition("=")[0] not in flags]
    if not known(" ".join([*wanted, flags]).strip()): wanted = [flag for flag in wanted if known(f"{flag} {flags}".strip())]
    return " ".join([*wanted, flags]).strip()


def settings():
    "Environment variables of a quick run, without those that the shell has set already."
    wanted = dict(JAX_PLATFORMS="cpu", KERAS_BACKEND="jax", MPLBACKEND="Agg", PYTHONHASHSEED="0",
                  JAX_COMPILATION_CACHE_DIR=str(PROGRAMS), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0", JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="0")
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(missing)
    return missing | {"XLA_FLAGS": with_quick_compilation(os.environ.get("XLA_FLAGS", ""))}


if __name__ == "__main__":
    for name, value in settings().items(): print(f"export {name}={shlex.quote(value)}")
