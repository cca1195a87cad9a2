"""What is promised of faults, tried as often as one likes: `python tests/promises.py operations|moments|mutations [COUNT [SUBJECT]]` prints one line of JSON.

operations: a training and a saving are killed before every operation on files; a process counts its own operations and ends by SIGKILL
moments: trainings are killed COUNT times at moments drawn at random, and started again
mutations: COUNT files, folders and overrides with something changed are read
"""
import contextlib
import gzip
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

OVERRIDES = ["data.articles=140", "data.users=30", "data.impressions=100", "data.valid=30", "data.test=30", "model.num_heads=2", "model.head_dim=4",
             "data.vectors=8", "model.query_dim=6", "model.title_length=6", "model.history_length=6", "recipe.epochs=2", "recipe.batch_size=16",
             "recipe.learning_rate=1e-2", "recipe.verbose=0"]


# The processes: forks of one that has imported the package, so that each costs no more than its work.

def counted(folder, number):
    "Kills this process before its `number`th operation on files of a folder."
    place, left = str(folder), [number]
    changes = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}

    def heard(event, arguments):
        writes = event in changes or event == "open" and (str(arguments[1]) or "r")[0] in "wax"
        writes |= event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and str(arguments[0]).startswith(place):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(heard)


def train(folder, out):
    "One whole run of the shell, and the bits that it ends with."
    from newsrex_nb.experiments.configuration import configure
    from newsrex_nb.experiments.runs import run

    outcome = run(configure("model=nrms", *OVERRIDES), folder)
    write_bits(outcome.model, out)


def save(folder, out):
    "A second model in the place of a first one."
    from newsrex_nb import hub

    model, data = small(seed=2)
    hub.save(folder, model, data.features, asked={"articles.jsonl": '{"id": "N1", "title": "a storm"}\n'})
    write_bits(model, out)


def small(seed):
    from newsrex_nb.data import toy
    from newsrex_nb.models import NRMS

    data = toy(articles=140, users=30, impressions=100, valid=0, test=0)
    shape = dict(num_heads=2, head_dim=4, word_dim=8, query_dim=6, title_length=6, history_length=6)
    return NRMS(data.sizes, seed=seed, **shape), data


def bits(model):
    import numpy as np

    return b"".join(np.asarray(v.value).tobytes() for v in model.weights)


def write_bits(model, out): Path(out).write_bytes(bits(model))


WORKS = dict(train=train, save=save)


class Forks:
    "Starts each work in a fork of a process that has imported the package."

    def __init__(self, home):
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(home / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                       "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1", "NEWSREX_CACHE": str(home / "cache")}
        command = [sys.executable, __file__, "--forks"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def run(self, work, folder, out, number=0, seconds=None):
        "The exit status of one process; `number`: killed before that operation; `seconds`: killed after them."
        print(json.dumps([work, str(folder), str(out), number, seconds]), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def serve():
    import newsrex_nb.experiments.runs  # noqa: F401, imported once for all

    for line in sys.stdin:
        work, folder, out, number, seconds = json.loads(line)
        if (child := os.fork()) == 0:
            os.dup2(2, 1)
            if number: counted(folder, number)
            if seconds: signal.setitimer(signal.ITIMER_REAL, seconds), signal.signal(signal.SIGALRM, signal.SIG_DFL)
            status = 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    WORKS[work](folder, out)
                    status = 0
                except BaseException:
                    import traceback
                    traceback.print_exc()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def operations(home, step=1, works=("save", "train")):
    "Kills before every `step`th operation; {work: (kills, outcomes)}."
    forks, found = Forks(home), {}
    for work in works:
        whole, out = home / f"{work}.whole", home / f"{work}.bits"
        if work == "save": first(home / "old")
        place = home / f"{work}-whole"
        if work == "save": shutil.copytree(home / "old", place)
        assert forks.run(work, place, whole) == 0, f"{work} fails by itself"
        outcomes, number, status = {}, step, -9
        while status == -9:
            place = home / f"{work}-{number}"
            if work == "save": shutil.copytree(home / "old", place)
            status = forks.run(work, place, out, number)
            if status == -9:
                outcome = state_of_folder(home, place, whole) if work == "save" else "goes on"
                assert forks.run(work, place, out) == 0, f"{work}, killed before operation {number}, does not go on"
                assert out.read_bytes() == whole.read_bytes(), f"{work}, killed before operation {number}, ends with other bits"
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
            assert status in (-9, 0), f"{work}, operation {number}: status {status}"
            shutil.rmtree(place)
            number += step
        found[work] = outcomes
    forks.close()
    return found


def first(folder):
    from newsrex_nb import hub

    model, data = small(seed=1)
    hub.save(folder, model, data.features)


def state_of_folder(home, folder, whole):
    "What a folder holds in which a saving was killed: the old model, the new one, or what is refused in a sentence."
    from newsrex_nb import hub
    from newsrex_nb.core import InputError

    try: found = bits(hub.load(folder)[0])
    except InputError: return "refused"
    if found == whole.read_bytes(): return "new"
    assert found == bits(hub.load(home / "old")[0]), "neither the old model nor the new one"
    return "old"


def moments(home, count, seed=0):
    "Kills trainings `count` times at random moments; each goes on until it is done, and has then the bits of one that was left alone."
    forks, draw, whole, out = Forks(home), random.Random(seed), home / "whole", home / "bits"
    for name in ("once", "again"):
        started = time.perf_counter()
        assert forks.run("train", home / name, whole) == 0
    longest, kills, runs = time.perf_counter() - started, 0, 0
    while kills < count:
        place, status = home / f"run-{runs}", -14
        while status == -14:
            status = forks.run("train", place, out, seconds=draw.uniform(0.02, longest) if kills < count else None)
            kills += status == -14
        assert status == 0, f"run {runs} ends with status {status}"
        assert out.read_bytes() == whole.read_bytes(), f"run {runs} ends with other bits"
        shutil.rmtree(place)
        runs += 1
    forks.close()
    return dict(kills=kills, runs=runs)


# What is read: each subject makes its file once, then reads it with something changed.

ODD = [None, True, -1, 0, 1.5, 1e308, -0.0, 2**63, 10**30, "", " ", "x", "\ud800", "../..", "NaN", [], {}, [[]], [None], {"a": {}}, "9" * 400, [1] * 50]


def changed_bytes(draw, content):
    "Some bytes of a file changed, lost, doubled, put in or cut off."
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 3))):
        at, length = draw.randrange(len(content) + 1), draw.choice((1, 1, 4, 60))
        kind = draw.randrange(6)
        if kind == 0 and content: content[min(at, len(content) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1: del content[at:at + length]
        elif kind == 2: content[at:at] = content[at:at + length]
        elif kind == 3: content[at:at] = draw.randbytes(length)
        elif kind == 4: del content[at:]
        else: content[at:at + 1] = draw.choice((b"\n", b"\t", b"\0", b'"', b"\\", b",", b"\xff", b"]", b"}", b"-", b"e9"))
    return bytes(content)


def changed_json(draw, value):
    "One value, key or item of something that JSON has read, replaced, lost or doubled."
    place, inner = [], value
    while isinstance(inner, (dict, list)) and inner and draw.random() < 0.9:
        key = draw.choice(list(inner)) if isinstance(inner, dict) else draw.randrange(len(inner))
        place.append((inner, key))
        inner = inner[key]
    if not place: return draw.choice(ODD)
    holder, key = place[-1]
    kind = draw.randrange(4)
    if kind == 0: del holder[key]
    elif kind == 1 and isinstance(holder, dict): holder[str(draw.choice(ODD))] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list): holder.append(holder[key])
    else: holder[key] = draw.choice(ODD)
    return value


def changed_file(draw, path, structure=0.5):
    "Changes a file, one in JSON half of the time by its structure."
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and draw.random() < structure:
        lines = content.decode().split("\n") if path.suffix == ".jsonl" else [content.decode()]
        at = draw.randrange(max(1, len(lines) - 1))
        lines[at] = json.dumps(changed_json(draw, json.loads(lines[at])))
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    else:
        path.write_bytes(changed_bytes(draw, content))


class Subject:
    "Files in a folder, and what reads them."

    def __init__(self, home, name, make, read, names, share, protected=False):
        self.name, self.read, self.share, self.protected = name, read, share, protected
        self.folder = home / name
        self.folder.mkdir()
        make(self.folder)
        self.names = names or [str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()]
        self.whole = {path.relative_to(self.folder): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        self.expected = read(self.folder)

    def try_one(self, draw):
        "Reads with one file changed; InputError and, where nothing protects the content, another result are right."
        from newsrex_nb.core import InputError

        name = Path(draw.choice(self.names))
        changed_file(draw, self.folder / name)
        try:
            found = self.read(self.folder)
            if self.protected and found != self.expected:
                raise AssertionError(f"{self.name}: {name} changed, and another result comes without a word")
            return "read"
        except InputError as error:
            assert "\n" not in str(error).strip("\n") and len(str(error)) < 4000, f"{self.name}: no sentence: {error}"
            return "sentence"
        finally:
            if self.name == "its cache": shutil.rmtree(self.folder), self.folder.mkdir()  # what cannot be read is written anew
            for path, content in self.whole.items() if self.name == "its cache" else [(name, self.whole[name])]:
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / path).write_bytes(content)


def subjects(home):
    from safetensors.numpy import load_file, save_file

    from newsrex_nb import hub
    from newsrex_nb.data import custom, mind, toy
    from newsrex_nb.data.article_vectors import read_article_vectors, write_vectors
    from newsrex_nb.evaluate.predictions import FileScores
    from newsrex_nb.hub.publish import from_pretrained, save_pretrained
    from newsrex_nb.metrics.results import append_result, read_results
    from newsrex_nb.train import fit, loop

    model, data = small(seed=1)
    world = toy(articles=140, users=20, impressions=40, valid=0, test=12)

    def saved(folder): save_pretrained(folder, model, data, keep_articles=True)

    def opened(folder):
        again, kept = from_pretrained(folder)
        return bits(again), kept.news.title, kept.features.vocabulary, kept.features.recipe

    def as_before(folder):
        saved(folder)
        config = json.loads((folder / "config.json").read_text())
        del config["files"]
        (folder / "config.json").write_text(json.dumps(config))
        save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")

    log = dict(validation=None)
    trained = small(seed=1)
    recipe = dict(epochs=1, batch_size=32, validation=None, verbose=0)

    def kept(folder): fit(small(seed=1)[0], trained[1], checkpoint=folder, **recipe)

    def resumed(folder):
        import unittest.mock

        with unittest.mock.patch.object(loop, "run_training", lambda training: training.checkpoint.read()):
            state = fit(small(seed=1)[0], trained[1], checkpoint=folder, **recipe)
        return None if state is None else b"".join(a.tobytes() for arrays in state.state.values() for a in arrays)

    def written(folder):
        config = dict(given=[], parts={"model": "nrms", "data": "toy"}, model={"_target_": "models.NRMS"}, data={}, recipe={})
        results = dict(name="NRMS", model=dict(auc=0.5, mrr=0.2, impressions=12), baselines={}, data="toy")
        append_result(folder / "results.jsonl", dict(config=config | dict(seed=1), run="a"), results)
        append_result(folder / "results.jsonl", dict(config=config | dict(seed=2), run="b"), results)

    def csv(folder):
        lines = [f"U{i % 7},N{1 + i % 9},2019-11-1{i % 5} 0{i % 9}:00:00" for i in range(60)]
        (folder / "clicks.csv").write_text("user,article,time\n" + "\n".join(lines) + "\n")
        lines = [f"N{i},a storm is coming number {i},weather" for i in range(1, 10)]
        (folder / "news.csv").write_text("id,title,category\n" + "\n".join(lines) + "\n")

    def ranked(folder):
        offsets = world.test.offsets
        ranks = [list(range(1, b - a + 1)) for a, b in zip(offsets[:-1], offsets[1:])]
        (folder / "prediction.txt").write_text("".join(f"{i + 1} {json.dumps(r, separators=(',', ':'))}\n" for i, r in enumerate(ranks)))

    def finished(folder):
        from newsrex_nb.experiments.configuration import configure
        from newsrex_nb.experiments.runs import run

        run(configure("model=nrms", *OVERRIDES, "recipe.epochs=1"), folder / "run")

    def table(folder):
        from newsrex_nb.experiments.run_tables import table_of_runs

        return len(table_of_runs([str(folder / "run")]))

    def shared(folder):
        from newsrex_nb.hub.publish import gather

        with tempfile.TemporaryDirectory() as place:
            return sorted(path.name for path in gather([folder / "run"], Path(place) / "shared").rglob("*"))

    def packed(folder):
        csv(folder)
        for name in ("clicks.csv", "news.csv"): (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))

    def archive(folder):
        world.write_mind(folder / "MIND")
        with zipfile.ZipFile(folder / "log.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in (folder / "MIND").rglob("*.tsv"): archive.write(path, path.relative_to(folder / "MIND").as_posix())

    def clicks(folder, behaviors="clicks.csv", news="news.csv"):
        return len(custom(news=folder / news, behaviors=folder / behaviors, cache=False).news)

    world.write_mind(home / "log")
    files = ["config.json", "features.json", "model.safetensors", "articles.jsonl"]
    return [  # the number is how many are tried while one of the slowest is
        Subject(home, "a saved model", saved, opened, files, 1, protected=True),
        Subject(home, "a saved model of format 1", as_before, opened, files, 1),
        Subject(home, "a checkpoint", kept, resumed, ["state.safetensors"], 1, protected=True),
        Subject(home, "a finished run", finished, table, ["run/experiment.json", "run/test_results.json", "run/history.json"], 16),
        Subject(home, "a run that is shared", finished, shared, ["run/experiment.json", "run/history.json", "run/test_results.json"], 1),
        Subject(home, "a file of results", written, lambda folder: len(read_results(folder / "results.jsonl")), ["results.jsonl"], 160),
        Subject(home, "a log in MIND's format", lambda folder: world.write_mind(folder), lambda folder: len(mind(path=folder, **log, cache=False).news),
                ["train/behaviors.tsv", "train/news.tsv"], 1),
        Subject(home, "its cache", lambda folder: mind(path=home / "log", **log, cache=folder), lambda folder: arrays_of(mind(path=home / "log", **log, cache=folder)),
                [], 1, protected=True),
        Subject(home, "a log of clicks", csv, clicks, ["clicks.csv", "news.csv"], 3),
        Subject(home, "packed files", packed, lambda folder: clicks(folder, "clicks.csv.gz", "news.csv.gz"), ["clicks.csv.gz", "news.csv.gz"], 3),
        Subject(home, "an archive", archive, lambda folder: len(mind(path=folder / "log.zip", **log, cache=False).news), ["log.zip"], 1),
        Subject(home, "predictions", ranked, lambda folder: FileScores(folder / "prediction.txt", world).scores(world.test).tobytes(), ["prediction.txt"], 160),
        Subject(home, "article vectors", lambda folder: write_vectors(folder / "v.safetensors", {f"N{i}": [0.5] * 3 for i in range(5)}),
                lambda folder: len(read_article_vectors(folder / "v.safetensors")), ["v.safetensors"], 160),
    ]


def arrays_of(data):
    log = data.train
    return data.news.title, log.user.tobytes(), log.candidates.tobytes(), log.labels.tobytes(), log.histories.rows.tobytes()


class Overrides:
    "What somebody writes behind `newsrex train`."
    name, share = "overrides", 1
    keys = ["model", "data", "recipe", "seed", "preset", "folder", "results", "logging", "recipe.epochs", "recipe.learning_rate", "recipe.monitor", "model.num_heads",
            "model.news_encoder", "model.dropout", "data.path", "data.columns", "data.valid", "data.seed", "recipe.loss", "recipe.patience", "data.articles", "x.y"]
    values = ["nrms", "lstur", "mind", "toy", "custom", "1", "-1", "1e30", "null", "true", "[1,2]", "{a:1}", "[", "}", "'", '"', "a b", "", "=", "${oc.env:HOME}", "???", "1e-4,3e-4",
              "\ud800", "\0", "nan", "inf", "../..", "os.abort", "a:b", "CNNTitle", "9" * 500, "é", "+", "~", "@x"]

    def try_one(self, draw):
        from newsrex_nb.core import InputError
        from newsrex_nb.experiments.configuration import configure

        texts = [draw.choice(self.keys) + draw.choice(("=", "=", "=", "=", "", "==")) + draw.choice(self.values) for _ in range(draw.choice((1, 1, 2, 3)))]
        if draw.random() < 0.3: texts = [changed_bytes(draw, text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace") for text in texts]
        try:
            configure(*texts)
            return "read"
        except InputError:
            return "sentence"


def mutations(home, count, only=None, seed=0):
    "Tries `count` changes, as many of each subject; {subject: {outcome: number}}. What is neither read nor refused in a sentence raises."
    tried, found, failures = [*subjects(home), Overrides()], {}, {}
    tried = [subject for subject in tried if only in (None, subject.name)]
    whole = sum(subject.share for subject in tried)
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        for subject in tried:
            outcomes = found.setdefault(subject.name, {})
            for number in range(math.ceil(count * subject.share / whole)):
                place = f"{subject.name} {seed} {number}"
                try: outcome = subject.try_one(random.Random(place))
                except Exception as error:
                    outcome = "fault"
                    failures.setdefault(f"{subject.name}: {type(error).__name__}: {str(error)[:200]}", place)
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return found, failures


def main(kind, *count):
    started, count = time.time(), [int(number) for number in count[:1]] + [*count[1:]]
    with tempfile.TemporaryDirectory() as folder:
        found = dict(operations=operations, moments=moments, mutations=mutations)[kind](Path(folder), *count)
    failures = {}
    if kind == "mutations": found, failures = found
    print(json.dumps(dict(kind=kind, found=found, seconds=round(time.time() - started))))
    for failure, place in failures.items(): print(f"{failure}   [{place}]")
    return bool(failures)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(serve() if sys.argv[1:] == ["--forks"] else main(*sys.argv[1:]))
