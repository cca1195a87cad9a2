"""Where a run is written to: its log, CSV, TensorBoard, Weights & Biases; and nothing that nobody asked for."""
import csv
import errno
import importlib.util
import json
import socket
import struct
import threading
import time

import pytest
from hydra_zen import instantiate

from newsrex_nb import cli
from newsrex_nb.experiments import loggers, runs
from newsrex_nb.train import loop
from newsrex_nb.experiments.configuration import configure
from newsrex_nb.core import InputError
from newsrex_nb.experiments.building import load_data

TINY = ("model.num_heads=2", "model.head_dim=8", "data.vectors=16", "model.query_dim=8", "model.title_length=8", "recipe.epochs=2",
        "recipe.chunk=4", "data.articles=200", "data.users=50", "data.impressions=200", "data.valid=50", "data.test=60")


@pytest.fixture(scope="module")
def data(): return load_data(configure(*TINY))


def stopped(monkeypatch):
    "Has the next training break off in its second epoch."
    real = loop.epoch_loss
    def breaks(engine, epoch, called, verbose):
        if epoch == 1: raise InterruptedError
        return real(engine, epoch, called, verbose)
    monkeypatch.setattr(loop, "epoch_loss", breaks)


@pytest.fixture(scope="module")
def resumed(data, tmp_path_factory):
    "A run that was stopped after its first epoch and started again, with a table, and its folder after the stop."
    folder, config = tmp_path_factory.mktemp("runs") / "one", configure(*TINY, "logging=csv")
    with pytest.MonkeyPatch.context() as patch:
        stopped(patch)
        with pytest.raises(InterruptedError): runs.run(config, folder, data)
    left = sorted(p.name for p in folder.rglob("*") if p.name != ".lock")
    return runs.run(config, folder, data), left


def test_a_stopped_run_goes_on_in_its_folder(resumed):
    outcome, left = resumed
    assert left == ["checkpoint", "epochs.csv", "experiment.json", "log.txt", "state.safetensors"]
    assert outcome.history.resumed == 1 and len(outcome.history.history["loss"]) == 2
    names = {p.name for p in outcome.folder.iterdir()}
    assert "checkpoint" not in names and {"model.safetensors", "test_results.json", "curve.png"} <= names
    seconds = json.loads((outcome.folder / "history.json").read_text())["seconds"]
    assert len(seconds["epochs"]) == 2 and seconds["processor"] > outcome.history.earlier > 0


def test_log_and_table_of_a_resumed_run(resumed):
    outcome, _ = resumed
    lines = [line.split("  ", 1)[1] for line in (outcome.folder / "log.txt").read_text().splitlines()]
    said = [line.split(":")[0] for line in lines if not line.startswith(("samples", "2"))]
    assert [line for line in said if line.startswith(("epoch", "resumed"))] == ["epoch 1/2", "resumed after epoch 1", "epoch 2/2"]
    assert not [line for line in lines if "━" in line or "\x1b" in line]
    with open(outcome.folder / "epochs.csv") as file: rows = [*csv.DictReader(file)]
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert [float(row["loss"]) for row in rows] == outcome.history.history["loss"]


@pytest.mark.parametrize("words, sentence", [
    (["logging=nothing"], "none, csv, tensorboard, wandb|'wandb'"), (["logging=csv", "logging.nam=x"], "perhaps name is meant"),
    (["logging=tensorboard"], "install tensorflow"), (["logging=wandb"], r"newsrex_nb\[wandb\]"),
    (["logging=wandb", "logging.mode=on"], "'offline', 'online'")])
def test_one_sentence(words, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=sentence):
        config = configure(*TINY, *words)
        instantiate(config["logging"])(folder=tmp_path, config=config)


def test_a_disk_without_room(resumed, data, monkeypatch, capsys):
    "The files of a run that cannot be written cost a sentence, and its training is kept."
    def full(*given): raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")
    monkeypatch.setitem(cli.COMMANDS, "train", full)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == ("newsrex: model.safetensors: No space left on device; make room: a run goes on after its last "
                                       "epoch when it is started again with its folder=.\n")


class Listener:
    "A server that every connection of this process's children is sent to, and that counts them."
    def __enter__(self):
        self.calls, self.server = 0, socket.create_server(("127.0.0.1", 0))
        def listen():
            while True:
                try: self.server.accept()[0].close()
                except OSError: return
                self.calls += 1
        threading.Thread(target=listen, daemon=True).start()
        return self

    @property
    def address(self): return f"http://127.0.0.1:{self.server.getsockname()[1]}"

    def __exit__(self, *error): self.server.close()


def records(path):
    "The records of an offline run's file, a log of LevelDB, in which a record may go on from one block of 32 kB to the next."
    from wandb.proto.wandb_internal_pb2 import Record
    content, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7: at += left
        else:
            _, size, kind = struct.unpack("<IHB", content[at:at + 7])
            part, at = part + content[at + 7:at + 7 + size], at + 7 + size
            if kind in (1, 4):
                yield Record.FromString(part)
                part = b""


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_offline(data, tmp_path, monkeypatch):
    "A run that goes on has all its epochs in one run of Weights & Biases, and nothing asks for the network."
    with Listener() as network:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, network.address)
            monkeypatch.setenv(name.lower(), network.address)
        for name in ("NO_PROXY", "no_proxy"): monkeypatch.delenv(name, raising=False)
        config = configure(*TINY, "logging=wandb", "logging.project=trial", "recipe.verbose=0")
        callbacks = loggers.to_wandb(tmp_path, config, project="trial")
        for callback in callbacks:
            callback.on_resume(1, {"loss": [1.5]})
            callback.on_train_begin()
            callback.on_epoch_end(1, {"loss": 1.25})
            callback.waits = True
            callback.on_train_end()
            callback.tested({"auc": 0.75})
        assert network.calls == 0
    path, = tmp_path.glob("wandb/offline-run-*/*.wandb")
    for _ in range(300): # its own process goes on writing after finish() has returned
        found = list(records(path))
        if any(r.WhichOneof("record_type") == "exit" for r in found): break
        time.sleep(.1)
    rows = [{i.nested_key[0] if i.nested_key else i.key: json.loads(i.value_json) for i in r.history.item}
            for r in found if r.WhichOneof("record_type") == "history"]
    assert [(row["epoch"], row["loss"]) for row in rows] == [(1, 1.5), (2, 1.25)]
    summary = {i.key: json.loads(i.value_json) for r in found if r.WhichOneof("record_type") == "summary" for i in r.summary.update}
    assert summary["test_auc"] == 0.75
