"""What each stage of `.ci/gpu` measures, with the public names of the package only.

A stage is a process of its own. It gets ready, reads from its input how many seconds it
has, and reports a line with numbers for every measurement. Whatever is timed runs in a
process of its own, too, a fork of the stage's: so peaks of memory belong to one
measurement, and what runs out of memory ends nothing else. The processes of a *wave*
get ready beside each other and then run one by one, while the others wait.
"""
import argparse
import contextlib
import fcntl
import hashlib
import inspect
import json
import math
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = "\x1e"  # begins a line by which a stage reports
OTHERS = "NAML", "LSTUR", "MINER", "CAUM", "PPRec"
REST = "NPA", "NRAM", "TCCM", "DIGAT", "GLORY", "CROWN"
PRECISIONS = dict(  # (JAX's precision of float32 products, what `fit` is told)
    float32=("highest", "float32"),
    tf32=(None, "float32"),  # JAX's own default: TF32 on cards that have it
    bfloat16=(None, "mixed_bfloat16"),
    float16=(None, "mixed_float16"),
)
TINY = dict(  # arguments of models in small runs, where a model has them
    num_heads=4, head_dim=8, query_dim=32, word_dim=32, filters=32, history_length=15,
    title_length=12, abstract_length=12, news_dim=32, hidden=(32, 16), entity_heads=4,
    entity_head_dim=8, entity_dim=16, category_dim=16, co_heads=2, co_dim=16,
    feed_dim=32, interests=8, intent_dim=32, user_dim=16, graph_heads=2, age_dim=16,
    token_dim=16,
)  # fmt: skip
FULL = dict(
    toy={},
    world={},
    model={},
    batches=(64, 16, 256),
    seconds=3.0,  # of training that are timed, where an epoch takes longer
    steps=320,  # of the runs whose bits are compared
    keras_steps=96,
    matrix=8192,
    copied=1 << 28,  # numbers
)
SMALL = FULL | dict(
    toy=dict(articles=300, users=100, impressions=500, valid=50, test=100),
    world=dict(
        articles=1500, users=600, impressions=1500, test=300, topics=8, subtopics=5
    ),
    model=TINY,
    batches=(64, 16),
    steps=32,
    keras_steps=16,
    matrix=512,
    copied=1 << 22,
)
GOALS = dict(  # of NRMS at batch 64, at MIND-small's size on an H100
    epoch_seconds=5.0, evaluation_seconds=5.0, peak_gigabytes=4.0
)


def report(line, **numbers):
    "Tells `.ci/gpu` one measurement, or that there is none."
    told = json.dumps(dict(line=line, **numbers), default=float)
    known = json.loads(told, parse_constant=lambda name: None)  # JSON has no NaN
    os.write(1, f"{MARK}{json.dumps(known)}\n".encode())


def failed(what, reason):
    report(f"{what}: {reason}", failed=True)


def sentence(error):
    "An exception as one line."
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:300]


def median(values):
    return statistics.median(values) if values else math.nan


# ---------------------------------------------------------------- processes in waves


class Worker:
    "A fork of the stage that gets ready, waits for its turn, and measures."

    def __init__(self, name, measure, shared):
        self.name, self.ready, self.closed = name, False, False
        self.heard, says = os.pipe()
        hears, self.tells = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forks beside threads
            self.pid = os.fork()
        if self.pid:
            os.close(says)
            os.close(hears)
            return
        os.close(self.heard)
        os.close(self.tells)
        status = 1
        try:
            measure(Turn(says, hears, shared))
            status = 0
        except Exception as error:
            traceback.print_exc()
            failed(name, sentence(error))
            status = 0  # it is told
        finally:
            os._exit(status)

    def listen(self, seconds):
        "Waits until the worker is ready or has ended, or the time is over."
        until = time.monotonic() + seconds
        while not (self.ready or self.closed):
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.heard], [], [], left)[0]:
                return
            said = os.read(self.heard, 1)
            self.ready, self.closed = said == b"r", not said

    def measure(self, seconds):
        "Gives the worker its turn, and waits until it has ended, or the time is over."
        os.write(self.tells, b"g")
        self.ready = False
        self.listen(seconds)

    def end(self, reason):
        "Reports what has not ended by itself, and frees what it holds."
        if not self.closed:
            os.kill(self.pid, signal.SIGKILL)
            failed(self.name, reason)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if self.closed and status:
            how = ", as when memory is short" if status == -signal.SIGKILL else ""
            failed(self.name, f"ended with status {status}{how}")
        os.close(self.heard)
        os.close(self.tells)


class Turn:
    "A worker's side: it says that it is ready, and waits."

    def __init__(self, says, hears, shared):
        self.says, self.hears, self.shared = says, hears, shared

    def __call__(self):
        os.write(self.says, b"r")
        if not os.read(self.hears, 1):
            os._exit(1)  # the stage has ended

    @contextlib.contextmanager
    def alone(self):
        "While nothing else compiles: what compiles tries products out, and times them."
        if not self.shared.quiet:
            yield
            return
        with open(self.shared.place / "compiling", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Free(Turn):
    "The turn of one that waits for nobody."

    def __init__(self, shared):
        self.shared = shared

    def __call__(self):
        pass


class Shared:
    "What the workers of a stage have in common."

    def __init__(self, options):
        self.__dict__.update(vars(options))
        self.quiet, self.beside_now = False, 1
        self.place = Path(tempfile.mkdtemp(dir="."))
        self.sizes = SMALL if self.small else FULL
        if self.brief:
            self.sizes = self.sizes | dict(toy=SMALL["toy"])
        self.patience = 4 if self.cpu else 1
        self.until = math.inf

    @property
    def left(self):
        return self.until - time.monotonic()

    def wave(self, jobs, quiet=False):
        "Runs (name, function of a turn) pairs: ready beside each other, timed in turn."
        if self.left < 20:
            for name, _ in jobs:
                failed(name, "no time was left in this stage")
            return
        self.quiet, self.beside_now = quiet and len(jobs) > 1, len(jobs)
        workers = [Worker(name, measure, self) for name, measure in jobs]
        most = (160 if self.quiet else 100) * self.patience
        latest = time.monotonic() + min(most, self.left - 4 * len(jobs))
        for worker in workers:
            worker.listen(max(latest - time.monotonic(), 0.1))
        for worker in workers:
            limit = min(40 * self.patience, self.left - 3)
            if worker.ready:
                worker.measure(max(limit, 0.1))
                worker.end(f"stopped after {limit:.0f} s of its turn")
            else:
                worker.end("was not ready in time")

    def waves(self, jobs):
        for start in range(0, len(jobs), self.beside):
            self.wave(jobs[start : start + self.beside])

    def keep(self, name, value):
        (self.place / f"{name}.json").write_text(json.dumps(value))

    def kept(self, name):
        path = self.place / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None


# ---------------------------------------------------------------- training, timed


def the_model(name, sizes, arguments):
    "A new model by name, small where the run is."
    import newsrex_nb.models

    kind = getattr(newsrex_nb.models, name)
    legal = inspect.signature(kind.__init__).parameters
    return kind(sizes, **{key: a for key, a in arguments.items() if key in legal})


def set_products(precision):
    "How exact products of float32 numbers are; returns what `fit` is told."
    import jax

    products, policy = PRECISIONS[precision]
    jax.config.update("jax_default_matmul_precision", products)
    return policy


class Enough(Exception):
    "Raised where a run has been timed for long enough."


def make_clock(begin, seconds=math.inf, steps=math.inf):
    "A callback that takes the time of every dispatch, and ends the run in time."
    import keras

    class Clock(keras.callbacks.Callback):
        losses, times, started = (), (), None

        def on_train_begin(self, logs=None):
            begin()
            self.losses, self.times = [], [(0, time.perf_counter())]
            self.started = self.times[0][1]

        def on_train_batch_end(self, batch, logs=None):
            now = time.perf_counter()
            self.times.append((batch + 1, now))
            self.losses.append(logs["loss"])
            if now - self.started > seconds or batch + 1 >= steps:
                raise Enough

    return Clock()


@contextlib.contextmanager
def programs(turn):
    "Keeps the programs that are compiled ahead of time meanwhile, with their seconds."
    import jax

    found, compile_it = [], jax.stages.Lowered.compile

    def timed(*arguments, **options):
        with turn.alone():
            clock = time.perf_counter()
            made = compile_it(*arguments, **options)
            found.append((made, time.perf_counter() - clock))
        return made

    jax.stages.Lowered.compile = timed
    try:
        yield found
    finally:
        jax.stages.Lowered.compile = compile_it


def program_costs(program):
    "Operations and bytes of a step, and memory, as the compiler counts them."
    costs = program.cost_analysis() or {}
    costs = costs[0] if isinstance(costs, list) else costs
    memory = program.memory_analysis()
    taken = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return dict(
        step_gflop=costs.get("flops", math.nan) / 1e9,
        step_gigabytes=costs.get("bytes accessed", math.nan) / 1e9,
        program_gigabytes=taken / 1e9,
    )


def peak_gigabytes():
    "Peak of the device's memory, or of the process where the device is the processor."
    import jax
    import resource

    found = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (found or process) / 1e9


def time_training(turn, data, model, batch_size, precision, begin=None, **options):
    "One epoch, or as much of it as there is time for: (numbers, losses of dispatches)."
    from newsrex_nb.train import fit

    seconds, steps = options.pop("seconds", math.inf), options.pop("steps", math.inf)
    policy = set_products(precision)
    clock = make_clock(begin or turn, seconds, steps)
    called, run = time.perf_counter(), None
    fixed = dict(epochs=1, validation=None, verbose=0, callbacks=[clock])
    with programs(turn) as compiled:
        with contextlib.suppress(Enough):
            fixed |= dict(batch_size=batch_size, precision=policy)
            run = fit(model, data, **fixed, **options)
    pairs = list(zip(clock.times, clock.times[1:]))
    pairs = pairs[1:] or pairs  # the first dispatch also loads the program
    rate = median([(b - a) / (t - s) for (a, s), (b, t) in pairs])
    clicks = int((data.train.labels > 0).sum())
    made = dict(
        batch_size=batch_size,
        precision=precision,
        samples_per_second=rate * batch_size,
        step_ms=1e3 / rate,
        epoch_seconds=run.seconds[0] if run else clicks / batch_size / rate,
        epoch_extrapolated=run is None,
        timed_steps=clock.times[-1][0],
        ready_seconds=clock.started - called,
    )
    if compiled:
        made["compile_seconds"] = compiled[0][1]
        made |= program_costs(compiled[0][0])
    if run:
        made |= dict(plan_seconds=run.plan_seconds, loss=run.history["loss"][0])
    return made, clock.losses


def shares(made, limits):
    "Which part of the device's measured rates a training step reaches."
    if not limits or "step_gflop" not in made:
        return {}
    seconds = made["step_ms"] / 1e3
    rate = limits["tflops"].get(made["precision"], limits["tflops"]["bfloat16"])
    bandwidth = limits["gigabytes_per_second"]
    return dict(
        matrix_share=made["step_gflop"] / seconds / 1e3 / rate,
        bandwidth_share=made["step_gigabytes"] / seconds / bandwidth,
    )


def time_evaluation(model, data):
    "Seconds that the test split takes, when everything is compiled: the median."
    from newsrex_nb.evaluate import evaluate

    times = []
    while len(times) < 3 and sum(times) < 6:
        clock = time.perf_counter()
        found = evaluate(model, data, "test")
        times.append(time.perf_counter() - clock)
    return dict(evaluation_seconds=median(times), impressions=found["impressions"])


def speed(turn, data, name, batch_size, precision, evaluation):
    "Training and evaluation of one model at one batch size and precision."
    from newsrex_nb.evaluate import evaluate

    shared = turn.shared
    model = the_model(name, data.sizes, shared.sizes["model"])

    def begin():
        if evaluation:
            with turn.alone():
                evaluate(model, data, "test")
        turn()

    headline = (name, batch_size) == ("NRMS", 64)
    options = dict(seconds=shared.sizes["seconds"] * (4 if headline else 1))
    made, _ = time_training(turn, data, model, batch_size, precision, begin, **options)
    made |= dict(model=name, ready_beside=shared.beside_now, quiet=shared.quiet)
    made["peak_gigabytes"] = peak_gigabytes()
    made |= shares(made, shared.kept("limits"))
    tell_speed(made)
    if evaluation:
        found = time_evaluation(model, data)
        seconds, count = found["evaluation_seconds"], found["impressions"]
        line = f"{what(made)}: {count:,} impressions evaluated in {seconds:.2f} s"
        report(line, model=name, batch_size=batch_size, precision=precision, **found)
        made |= found
    if headline and evaluation and not shared.small:
        tell_goals(made)


def what(made):
    return f"{made['model']} batch {made['batch_size']} {made['precision']}"


def tell_speed(made):
    "The line about a training."
    epoch = f"epoch {made['epoch_seconds']:.1f} s"
    if made["epoch_extrapolated"]:
        epoch += f" (by {made['timed_steps']} steps)"
    parts = [
        f"{made['samples_per_second']:,.0f} samples/s",
        epoch,
        f"step {made['step_ms']:.2f} ms",
        f"compiled in {made.get('compile_seconds', math.nan):.1f} s",
        f"peak {made['peak_gigabytes']:.2f} GB",
    ]
    if "matrix_share" in made:
        parts.append(f"{made['matrix_share']:.1%} of the matrix rate")
        parts.append(f"{made['bandwidth_share']:.1%} of the bandwidth")
    report(f"{what(made)}: {', '.join(parts)}", **made)


def tell_goals(made):
    "Which goals a run at MIND-small's size reaches; to read, not a failure."
    for name, goal in GOALS.items():
        value = made.get(name, math.nan)
        reached = "reached" if value <= goal else "missed"
        line = f"{what(made)}: goal {name} <= {goal:g} {reached}: {value:.2f}"
        report(line, goal=name, at_most=goal, value=value, reached=value <= goal)


def device_limits(turn):
    "The device's rate of matrix products in each precision, and of copying."
    import jax
    import jax.numpy as jnp

    size, rates = turn.shared.sizes["matrix"], {}
    numbers = jax.random.normal(jax.random.key(0), (size, size))
    copied = jnp.zeros(turn.shared.sizes["copied"])
    add = jax.jit(lambda x: x + 1)
    products = {}
    for name in ("float32", "tf32", "bfloat16"):
        a = numbers.astype("bfloat16") if name == "bfloat16" else numbers
        with jax.default_matmul_precision(PRECISIONS[name][0] or "default"):
            products[name] = a, jax.jit(lambda x: x @ x).lower(a).compile()
    jax.block_until_ready(add(copied))
    turn()

    def seconds(function, argument):
        times = []
        for _ in range(10):
            clock = time.perf_counter()
            jax.block_until_ready(function(argument))
            times.append(time.perf_counter() - clock)
        return median(times[1:])

    for name, (a, product) in products.items():
        rates[name] = 2 * size**3 / seconds(product, a) / 1e12
    copy = 2 * copied.nbytes / seconds(add, copied) / 1e9
    found = dict(tflops=rates, gigabytes_per_second=copy, matrix=size)
    turn.shared.keep("limits", found)
    told = ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
    line = f"products of {size} x {size}: {told} Tflop/s; copying {copy:,.0f} GB/s"
    report(line, **found)


# ---------------------------------------------------------------- equality


def plain_columns(model, data, rows):
    "The columns that a model reads, for every slot of a batch."
    found = {}
    for name, width in model.reads.items():
        column = data.features[name]
        found[name] = (column[:, :width] if width else column)[rows]
    return found


def plain_batch(model, data, clicked, candidates, user):
    "A batch as the model's own `call` takes it, for models that read columns only."
    import numpy as np

    known = np.where(user <= model.sizes.users, user, 0).astype(np.int32)
    return dict(
        clicked=plain_columns(model, data, clicked),
        mask=clicked > 0,
        candidates=plain_columns(model, data, candidates),
        candidate_mask=candidates > 0,
        user=known,
        hour=np.zeros_like(known),
        tables={},
    )


def plain_scores(model, data, impressions):
    "Scores of some impressions by the model's own `call`, nothing shared; flat."
    import jax
    import numpy as np

    log = data.test
    some = np.arange(impressions)
    flat = log.offsets[some][:, None] + np.arange(int(np.diff(log.offsets)[some].max()))
    inside = flat < log.offsets[some + 1][:, None]
    rows = np.where(inside, log.candidates[np.where(inside, flat, 0)], 0)
    clicked = log.histories.last(log.history[some], model.history_length)
    batch = plain_batch(model, data, clicked, rows, log.user[some])
    return np.asarray(jax.jit(lambda b: model(b))(batch))[inside]


def trained_on_toy(name, shared, sharing=True):
    "One epoch of the toy world: (model, data, numbers, losses, scores of the test)."
    import numpy as np
    from newsrex_nb.data import toy
    from newsrex_nb.evaluate import predict

    data = toy(**shared.sizes["toy"])
    exactly = dict(dropout=0.0, user_mask=0.0)
    model = the_model(name, data.sizes, shared.sizes["model"] | exactly)
    options = dict(sharing=sharing, learning_rate=1e-3)
    made, losses = time_training(Free(shared), data, model, 64, "float32", **options)
    with tempfile.TemporaryDirectory() as folder:
        scores = predict(model, data, os.path.join(folder, "scores.txt"))
    return model, data, made, losses, np.asarray(scores)


def apart(one, other):
    "The largest difference of two arrays, relative to the largest number in them."
    import numpy as np

    one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
    if one.shape != other.shape:
        return math.inf
    return float(np.abs(one - other).max() / np.abs(other).max())


def compare(what, one, other, most=1e-4):
    "Reports how far apart two results are; beyond the bound it is a failure."
    found = apart(one, other)
    line = f"{what}: {found:.1e} apart, at most {most:g} allowed"
    report(line, what=what, apart=found, allowed=most, failed=not found <= most)


def start_reference(name, shared, folder):
    "Starts the same training on the CPU, in a process of its own."
    options = ["--of", name, "--into", folder]
    options += [f"--{flag}" for flag in ("small", "brief") if getattr(shared, flag)]
    return subprocess.Popen(
        [sys.executable, __file__, "reference", *options],
        env=os.environ | dict(JAX_PLATFORMS="cpu"),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
    )


def reference(shared):
    "The process that `start_reference` starts."
    import numpy as np

    _, _, _, losses, scores = trained_on_toy(shared.of, shared)
    into = Path(shared.into) / f"{shared.of}.npz"
    np.savez(into, losses=losses, scores=scores)


def same_everywhere(name, shared, direct):
    "One model on the device: as on the CPU, shared as plain, cached as direct."
    import numpy as np

    running = start_reference(name, shared, shared.place)
    model, data, made, losses, scores = trained_on_toy(name, shared)
    report(
        f"{name}: an epoch of toy() in {made['epoch_seconds']:.1f} s, ready in "
        f"{made['ready_seconds']:.1f} s, loss {losses[0]:.4f} to {losses[-1]:.4f}",
        **made | dict(model=name),
    )
    if direct:
        plain = plain_scores(model, data, min(64, len(data.test)))
        compare(f"{name}: scores, cached and plain", scores[: len(plain)], plain)
    _, _, plain, _, others = trained_on_toy(name, shared, sharing=False)
    mean = [made["loss"]], [plain["loss"]]
    compare(f"{name}: loss of the epoch, shared and plain", *mean)
    compare(f"{name}: scores after it, shared and plain", scores, others)
    if running.wait():
        raise RuntimeError("the same on the CPU failed, see errors.log")
    with np.load(shared.place / f"{name}.npz") as known:
        compare(f"{name}: losses, here and on the CPU", losses, known["losses"])
        compare(f"{name}: scores, here and on the CPU", scores, known["scores"])


# ---------------------------------------------------------------- Keras' own fit


def drawn_samples(model, data, count, seed=0):
    "Histories, candidates with the clicked one first, users: one sample per click."
    import numpy as np

    log, rng = data.train, np.random.default_rng(seed)
    clicks = rng.permutation(np.flatnonzero(log.labels > 0))[:count]
    of = np.searchsorted(log.offsets, clicks, side="right") - 1
    lengths = np.diff(log.offsets)[of]
    others = log.offsets[of][:, None] + rng.integers(0, lengths[:, None], (len(of), 4))
    candidates = log.candidates[np.concatenate([clicks[:, None], others], axis=1)]
    clicked = log.histories.last(log.history[of], model.history_length)
    return clicked, candidates, log.user[of]


def keras_batches(model, data, batch_size, count):
    "Batches of tokens for `keras.Model.fit`, gathered before the clock starts."
    import keras
    import numpy as np

    drawn = drawn_samples(model, data, batch_size * count)
    blocks = np.resize(np.arange(len(drawn[0])), (count, batch_size))
    made = [plain_batch(model, data, *(part[b] for part in drawn)) for b in blocks]
    target = np.zeros(batch_size, np.int32)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return count

        def __getitem__(self, number):
            return made[number], target

    return Batches()


def plain_keras_model(model):
    "The plain model as a Keras model that may be fitted."
    import keras

    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner, self.built = model, True

        def call(self, batch, training=False):
            return self.inner(batch, training=training)

    return Plain()


def time_keras(turn, data, batch_size, steps_per_execution):
    "Samples a second of Keras' `fit` on the plain model, from batches on the host."
    import keras

    shared, steps = turn.shared, turn.shared.sizes["keras_steps"]
    set_products("tf32")
    model = the_model("NRMS", data.sizes, shared.sizes["model"])
    batches = keras_batches(model, data, batch_size, steps)
    fitted = plain_keras_model(model)
    fitted.compile(
        optimizer=keras.optimizers.Adam(1e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=steps_per_execution,
    )
    clock = time.perf_counter()
    with turn.alone():
        fitted.fit(batches, verbose=0)
    ready, times = time.perf_counter() - clock, []
    turn()
    while len(times) < 3 and sum(times) < shared.sizes["seconds"]:
        clock = time.perf_counter()
        fitted.fit(batches, verbose=0)
        times.append(time.perf_counter() - clock)
    rate = batch_size * steps / median(times)
    form = f"Keras' fit, {steps_per_execution} step(s) an execution"
    tell_form(shared, form, rate, batch_size=batch_size, first_fit_seconds=ready)


def time_ours(turn, data, batch_size, sharing):
    "The same of the package's `fit`."
    shared = turn.shared
    model = the_model("NRMS", data.sizes, shared.sizes["model"])
    options = dict(seconds=shared.sizes["seconds"], sharing=sharing)
    made, _ = time_training(turn, data, model, batch_size, "tf32", **options)
    form = "fit" if sharing else "fit by the plain path, a dispatch a step"
    tell_form(shared, form, made.pop("samples_per_second"), **made)


def tell_form(shared, form, rate, **numbers):
    "The line about one form of training, beside the first one."
    ours = shared.kept("ours")
    line = f"NRMS batch {numbers['batch_size']}, {form}: {rate:,.0f} samples/s"
    if ours is None:
        shared.keep("ours", rate)
    else:
        line += f"; the package's fit is {ours / rate:.1f} x as fast"
        numbers["times_as_fast"] = ours / rate
    numbers["peak_gigabytes"] = peak_gigabytes()
    report(line, form=form, samples_per_second=rate, **numbers)


# ---------------------------------------------------------------- equal bits


def digest_run(turn, data, name, deterministic):
    "Trains some steps; keeps a digest of all weights, and the speed."
    import numpy as np

    shared = turn.shared
    model = the_model("NRMS", data.sizes, shared.sizes["model"])
    options = dict(deterministic=deterministic, steps=shared.sizes["steps"])
    made, _ = time_training(turn, data, model, 64, "tf32", **options)
    digest = hashlib.sha256()
    for weight in model.trainable_variables:
        digest.update(np.asarray(weight.value).tobytes())
    rate, text = made["samples_per_second"], digest.hexdigest()
    shared.keep(name, dict(digest=text, rate=rate))
    steps = made["timed_steps"]
    line = f"{name}: {rate:,.0f} samples/s, weights {text[:12]} after {steps} steps"
    report(line, name=name, digest=text, **made)


def compare_bits(shared):
    "Whether runs agree in every bit, and what deterministic=True costs."
    rates = {}
    for kind, must in (("deterministic", True), ("ordinary", False)):
        found = [shared.kept(f"{kind}, run {number}") for number in (1, 2)]
        found = [run for run in found if run]
        rates[kind] = median([run["rate"] for run in found])
        if len(found) == 2:
            same = found[0]["digest"] == found[1]["digest"]
            words = "the same bits" if same else "other bits the second time"
            report(f"{kind} runs: {words}", same=same, failed=must and not same)
    price = rates["ordinary"] / rates["deterministic"]
    if math.isfinite(price):
        report(f"deterministic=True takes {price:.2f} x the time", price=price)


# ---------------------------------------------------------------- what a step does


def traced_clock(turn, folder, steps):
    "A clock that begins a trace after some dispatches."
    import jax

    clock = make_clock(turn, steps=steps)

    class Traced(type(clock)):
        begun = None

        def on_train_batch_end(self, batch, logs=None):
            if len(self.times) == 2:
                jax.profiler.start_trace(str(folder))
                self.begun = batch + 1, time.perf_counter()
            super().on_train_batch_end(batch, logs)

    clock.__class__ = Traced
    return clock


def profile_training(turn, data, precision):
    "A trace of some dispatches of a training: which kernels take the time."
    import jax
    from newsrex_nb.train import fit

    shared = turn.shared
    model = the_model("NRMS", data.sizes, shared.sizes["model"])
    folder, steps = shared.place / f"trace-{precision}", 2 * shared.sizes["steps"]
    clock, policy = traced_clock(turn, folder, steps), set_products(precision)
    with contextlib.suppress(Enough):
        fixed = dict(epochs=1, validation=None, verbose=0, batch_size=64)
        fit(model, data, callbacks=[clock], precision=policy, **fixed)
    first, begun = clock.begun
    last, ended = clock.times[-1]
    jax.profiler.stop_trace()
    tell_profile(f"NRMS batch 64 {precision}", folder, last - first, ended - begun)


def kernels_of(folder):  # {name: (calls, seconds)}
    "What ran on the device, of the newest trace in a folder."
    import jax

    path = max(Path(folder).rglob("*.xplane.pb"), key=lambda p: p.stat().st_mtime)
    found = {}
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                calls, seconds = found.get(event.name, (0, 0.0))
                found[event.name] = calls + 1, seconds + event.duration_ns / 1e9
    return found


KINDS = dict(  # of kernels, by words in their names; the first that fits
    products=("gemm", "cutlass", "nvjet", "xmma", "cublas", "dot", "matmul", "conv"),
    copies=("memcpy", "memset", "copy", "transpose"),
    gathers=("gather", "scatter", "dynamic", "slice"),
)


def kind_of(name):
    lower = name.lower()
    found = (k for k, words in KINDS.items() if any(w in lower for w in words))
    return next(found, "rest")


def tell_profile(title, folder, steps, wall):
    "How busy the device was, with what, and the kernels that take most of it."
    found = kernels_of(folder)
    if not found:
        report(f"{title}: the trace names no kernel of a card")
        return
    kinds = {}
    for name, (_, seconds) in found.items():
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0.0) + seconds
    busy = sum(kinds.values())
    calls = sum(calls for calls, _ in found.values())
    told = ", ".join(f"{k} {s / busy:.0%}" for k, s in sorted(kinds.items()))
    report(
        f"{title}: the card works {busy / wall:.0%} of the time, {calls / steps:.0f} "
        f"kernels a step; of its work {told}",
        busy_share=busy / wall,
        kernels_per_step=calls / steps,
        kinds={k: s / busy for k, s in kinds.items()},
    )
    top = sorted(found.items(), key=lambda item: -item[1][1])[:15]
    for name, (calls, seconds) in top:
        share, times = seconds / busy, calls / steps
        line = f"{title}: {share:6.1%}  {times:6.1f} a step  {name[:60]}"
        report(line, kernel=name, share=share, per_step=times)


# ---------------------------------------------------------------- the stages


def stage_a(shared):
    "The card, versions, and that it computes what the CPU does."
    shared.wait()
    tell_machine()
    same_everywhere("NRMS", shared, direct=True)


def tell_machine():
    "Card, driver and versions."
    import jax
    import jaxlib
    import keras
    import newsrex_nb
    import numpy

    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total"]
    try:
        asked = [*query, "--format=csv,noheader"]
        card = subprocess.run(asked, capture_output=True, text=True, timeout=20)
        told = card.stdout.strip() or card.stderr.strip() or "nvidia-smi says nothing"
    except (OSError, subprocess.TimeoutExpired) as error:
        told = f"no nvidia-smi ({type(error).__name__})"
    modules = jax, jaxlib, keras, numpy, newsrex_nb
    versions = {module.__name__: module.__version__ for module in modules}
    versions["python"] = platform.python_version()
    devices = [d.device_kind for d in jax.devices()]
    cores = len(os.sched_getaffinity(0))
    report(
        f"{told}; jax sees {', '.join(devices)}; {cores} cores; "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
        card=told,
        devices=devices,
        platform=jax.default_backend(),
        cores=cores,
        versions=versions,
    )


def the_world(shared):
    "The data of the timed stages, made before the stage's time begins to count."
    from newsrex_nb.data import toy

    clock = time.perf_counter()
    data = toy("mind-small", **shared.sizes["world"])
    for name in ("title", "abstract", "category", "subcategory", "entities"):
        data.features[name]  # once, for all forks
    seconds = time.perf_counter() - clock
    if "jax" in sys.modules:
        raise RuntimeError("jax was started before the forks that measure")
    shared.wait()
    report(
        f"{len(data.news) - 1:,} articles, {len(data.train):,} impressions with "
        f"{int((data.train.labels > 0).sum()):,} clicks to train on, "
        f"{len(data.test):,} to evaluate; made in {seconds:.1f} s",
        seconds=seconds,
    )
    return data


def speeds(data, *wanted):
    "Jobs of a wave: (model, batch size, precision, whether to evaluate) each."
    jobs = []
    for name, size, precision, evaluation in wanted:
        told = f"{name} batch {size} {precision}"
        asked = (data, name, size, precision, evaluation)
        jobs.append((told, lambda turn, asked=asked: speed(turn, *asked)))
    return jobs


def stage_b(shared):
    "Speed at MIND-small's size."
    data = the_world(shared)
    first, *sizes = shared.sizes["batches"]
    kinds = ("float32", "tf32", "bfloat16")
    limits = [("limits of the device", device_limits)]
    head = speeds(data, *(("NRMS", first, kind, True) for kind in kinds))
    if shared.beside > 1:
        shared.wave(limits + head, quiet=True)
    else:
        shared.waves(limits + head)
    others = [(name, first, "bfloat16", True) for name in OTHERS]
    nrms = [("NRMS", size, kind, False) for kind in kinds for size in sizes]
    large = [(name, sizes[-1], "bfloat16", False) for name in OTHERS]
    if shared.small:
        nrms, others, large = nrms[-1:], others[:1], []
    # the precision that is the fastest, then the other models, then the rest
    wanted = [*nrms[-2:], *others, *nrms[:-2], *large]
    shared.waves(speeds(data, *wanted))


def stage_c(shared):
    "The package's fit beside the plain path and Keras' own fit."
    data = the_world(shared)
    jobs = [
        ("fit", lambda turn: time_ours(turn, data, 64, True)),
        ("Keras' fit", lambda turn: time_keras(turn, data, 64, 1)),
        ("the plain path", lambda turn: time_ours(turn, data, 64, False)),
        ("Keras' fit, 16 steps", lambda turn: time_keras(turn, data, 64, 16)),
    ]
    if shared.beside > 1:
        shared.wave(jobs, quiet=True)
    else:
        shared.waves(jobs)


def stage_d(shared):
    "Equal bits under deterministic=True, and their price."
    data = the_world(shared)
    jobs = []
    for kind, chosen in (("deterministic", True), ("ordinary", False)):
        for number in (1, 2):
            asked = (data, f"{kind}, run {number}", chosen)
            jobs.append((asked[1], lambda turn, asked=asked: digest_run(turn, *asked)))
    shared.waves(jobs)
    compare_bits(shared)


def stage_e(shared):
    "The code cells of the first tutorial, in order, in a folder of their own."
    shared.wait()
    path = ROOT / "nbs/tutorials/01_quickstart.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    names, begun, ran = {"__name__": "__main__"}, time.perf_counter(), 0
    for cell in cells:
        source = "".join(cell["source"])
        lines = [line.strip() for line in source.splitlines()]
        left_out = ("#| slow", "#| download", "#| gpu", "#| eval: false", "!", "%")
        skipped = any(line.startswith(left_out) for line in lines)
        if cell["cell_type"] != "code" or skipped:
            continue
        clock = time.perf_counter()
        try:
            exec(compile(source, f"cell {cell['id']}", "exec"), names)
        except Exception as error:
            traceback.print_exc()
            raise RuntimeError(f"cell {cell['id']}: {sentence(error)}") from error
        ran += 1
        seconds = time.perf_counter() - clock
        report(f"cell {cell['id']}: {seconds:.1f} s", cell=cell["id"], seconds=seconds)
    seconds = time.perf_counter() - begun
    report(f"{path.name}: {ran} cells in {seconds:.0f} s", cells=ran, seconds=seconds)


def stage_p(shared):
    "What a training step does on the card."
    data = the_world(shared)
    jobs = []
    for kind in ("tf32", "bfloat16"):
        asked = (data, kind)
        job = lambda turn, asked=asked: profile_training(turn, *asked)
        jobs.append((f"profile {kind}", job))
    shared.waves(jobs)


def stage_f(shared):
    "Equality of all models."
    shared.wait()
    direct = ("NRMS", "NRAM", "NAML", "LSTUR", "NPA", "MINER", "CAUM", "CROWN")
    names = ("NRMS", *OTHERS, *REST)
    jobs = []
    for name in names:
        asked = (name, shared, name in direct)
        jobs.append((name, lambda turn, asked=asked: same_everywhere(*asked)))
    shared.waves(jobs)


def stage_g(shared):
    "The other models, float16, and larger batches."
    data = the_world(shared)
    shared.wave([("limits of the device", device_limits)])
    first = shared.sizes["batches"][0]
    large = 128 if shared.small else 1024
    wanted = [("NRMS", first, "float16", True), ("NRMS", large, "bfloat16", False)]
    wanted += [(name, first, "bfloat16", True) for name in REST]
    wanted += [(name, large, "bfloat16", False) for name in OTHERS]
    shared.waves(speeds(data, *wanted))


def wait_for_word(shared):
    "Reads how many seconds there are, which is the sign to begin."
    told = sys.stdin.readline()
    if not told:
        sys.exit("nobody has said when to begin")
    shared.until = time.monotonic() + float(told)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage")
    for flag in ("--cpu", "--small", "--brief"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--beside", type=int, default=1)
    parser.add_argument("--of", help="for the reference: the model")
    parser.add_argument("--into", help="for the reference: the folder")
    shared = Shared(parser.parse_args())
    shared.wait = lambda: wait_for_word(shared)
    if shared.stage == "reference":
        return reference(shared)
    try:
        globals()[f"stage_{shared.stage}"](shared)
    except Exception as error:
        traceback.print_exc()
        failed(f"stage {shared.stage}", sentence(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
