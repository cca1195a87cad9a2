"""The notebooks' tests in two processes, as `nbdev_test` runs them; those that take long begin first, so that both processes end together, and
what importing leaves in memory is not searched for garbage again and again. `python .ci/notebooks.py [FLAG …] [PATH …]` also runs cells so
marked; paths are of notebooks or folders under nbs/, all where there is none."""
import gc
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb

ROOT = Path(__file__).resolve().parents[1]
LONG = """train/loop models/digat models/caum models/glory layers/views layers/text tutorials/01_ models/pprec tutorials/24_ engine/scoring
    layers/attention engine/calls evaluate/explain train/steps models/ layers/ tutorials/ recommend/ experiments/ train/ engine/ contract/""".split()  # beginnings of paths, the longest first


def rank(path):
    "Place of a notebook's first match in LONG, then its path."
    name = path.relative_to(ROOT / "nbs").as_posix()
    return next((n for n, start in enumerate(LONG) if name.startswith(start)), len(LONG)), name


def end_at_once():
    """When a process ends, IPython searches the whole memory for garbage once for every shell that it had: minutes after a hundred notebooks, each
    with a shell of its own."""
    InteractiveShell.atexit_operations = staticmethod(lambda: None)


def start():
    "Imports what every notebook imports, and leaves it out of later searches for garbage."
    sys.path.insert(0, str(ROOT))
    import newsrex_nb.train  # noqa: F401
    end_at_once()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def passes(path, flags):
    "Whether a notebook passes."
    return test_nb(path, skip_flags=get_config().tst_flags.split(), force_flags=flags, basepath=ROOT)[0]


def tested(path, flags):
    "Whether a notebook passes, and its seconds."
    began = time.time()
    return passes(path, flags), time.time() - began


def main(arguments):
    "Tests notebooks: the sentence at the end, and the exit status."
    wanted = [ROOT / "nbs" / name for name in arguments if (ROOT / "nbs" / name).exists()]
    flags = [name for name in arguments if not (ROOT / "nbs" / name).exists()]
    if unknown := set(flags) - {*get_config().tst_flags.split()}:
        sys.exit(f"Expected paths under nbs/ or some of {get_config().tst_flags}, got {', '.join(sorted(unknown))}.")
    paths = [Path(p).absolute() for p in nbglob(None, as_path=True)]
    paths = sorted((p for p in paths if not wanted or {p, *p.parents} & {*wanted}), key=rank)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=start) as pool:
        futures = [pool.submit(tested, path, flags) for path in paths]
        results = {path: future.result() for path, future in zip(paths, futures)}
    longest = sorted(results, key=lambda path: -results[path][1])[:10]
    print("The longest:", ", ".join(f"{p.relative_to(ROOT / 'nbs')} {results[p][1]:.0f} s" for p in longest))
    failed = [str(path.relative_to(ROOT)) for path, (passed, _) in results.items() if not passed]
    print(f"{len(paths)} notebooks, {len(failed)} failed{': ' * bool(failed)}{', '.join(failed)}")
    return len(failed) > 0


if __name__ == "__main__":
    import notebooks  # a notebook's shell takes the place of the module `__main__`, in which a worker would look for `tested`
    sys.exit(notebooks.main(sys.argv[1:]))
