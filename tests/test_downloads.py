"""What comes from the network, against a server of our own: interrupted, refused, redirected, damaged; and texts without spaces end to end."""
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pytest

from newsrex_nb.core import InputError
from newsrex_nb.data import mind, toy
from newsrex_nb.files import mirrors
from newsrex_nb.files.downloads import download
from newsrex_nb.data.vectors import read_word_vectors, save_vectors
from newsrex_nb.recommend import Recommender

NRMS_SIZES = dict(num_heads=2, head_dim=8, query_dim=8, title_length=8, history_length=8)


class Handler(http.server.BaseHTTPRequestHandler):
    "Serves `files`; below /hub/ it redirects to another name of itself and tells the SHA-256, as the Hugging Face hub does."

    def do_GET(self):
        told, path = self.server, self.path
        ranges = "/plain/" not in path
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if ranges else 0
        told.requests.append((path, start, self.headers.get("Authorization")))
        if path in told.status: return self.send_error(told.status[path])
        if path in told.gated and not self.headers.get("Authorization"): return self.send_error(403)
        if path.startswith("/hub/"):
            if path not in told.files: return self.send_error(404)
            tag = told.tags.get(path) or hashlib.sha256(told.files[path]).hexdigest()
            return self.answer(302, b"", {"Location": f"{told.other}{path[4:]}", "X-Linked-Etag": f'"{tag}"'})
        content = told.files.get(path) or told.files.get("/hub" + path)
        if content is None: return self.send_error(404)
        if start and start >= len(content): return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self.answer(206 if start else 200, content[start:], span, told.cut.pop(path, None))

    def answer(self, code, content, headers, kept=None):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items(): self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[:kept])
        self.close_connection = True

    def log_message(self, *_): pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    "The server, with all addresses of data turned to it, and a cache of its own."
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.at, web.other = f"http://127.0.0.1:{web.server_port}", f"http://localhost:{web.server_port}"
    web.files, web.requests, web.cut, web.status, web.gated, web.tags = {}, [], {}, {}, set(), {}
    threading.Thread(target=web.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"{web.at}/hub")
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("NEWSREX_CACHE", str(tmp_path / "cache"))
    for name in ("xMIND", "GloVe", "BPEmb"): monkeypatch.setitem(mirrors.PLACES, name, (f"{web.at}/{name}/{{file}}",))
    monkeypatch.setattr(mirrors, "PUBLISHED", {})
    yield web
    web.shutdown(); web.server_close()


def zipped(files):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items(): archive.writestr(name, content)
    return made.getvalue()


@pytest.fixture(scope="module")
def world(): return toy(articles=200, users=50, impressions=200, valid=0, test=60)


@pytest.fixture(scope="module")
def archives(world, tmp_path_factory):
    "A toy world as MIND's two archives: the first wraps its files in a folder, the second in another archive."
    folder = world.write_mind(tmp_path_factory.mktemp("mind"))
    files = {s: {f"MINDsmall_{s}/{p.name}": p.read_bytes() for p in sorted((folder / s).iterdir())} for s in ("train", "dev")}
    return folder, {"MINDsmall_train.zip": zipped(files["train"]), "MINDsmall_dev.zip": zipped({"x/inner.zip": zipped(files["dev"])})}


PLACE = "/hub/datasets/{}/MIND/resolve/main/{}"


def test_mind_by_size(server, archives, monkeypatch):
    folder, zips = archives
    server.files = {PLACE.format("Recommenders", name): content for name, content in zips.items()}
    server.cut["/datasets/Recommenders/MIND/resolve/main/MINDsmall_train.zip"] = 9000
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    data = mind("small", min_count=1)
    asked = list(server.requests)
    assert [start for _, start, _ in asked] == [0, 0, 9000, 9000, 0, 0], "resumed where it broke off"
    assert all((token == "Bearer hf_reader") == path.startswith("/hub/") for path, _, token in asked), "the token stays with the hub"
    own = mind(path=folder, min_count=1, cache=False)
    assert data.name == "MIND-small" and own.name == "MIND" and data.sizes == own.sizes
    for split in ("train", "valid", "test"): assert (data.splits[split].candidates == own.splits[split].candidates).all()
    mind("small", min_count=2, cache=False)
    assert server.requests == asked, "what is there is not asked for again"


def test_gated_and_by_hand(server, archives, monkeypatch, tmp_path):
    name = "MINDsmall_train.zip"
    for file, content in archives[1].items(): server.files[PLACE.format("yjw1029", file)] = content
    server.gated = set(server.files)
    with pytest.raises(InputError) as e: mind("small")
    said = str(e.value)
    for part in ("404", "403", f"accept the terms at {server.at}/hub/datasets/yjw1029/MIND", "HF_TOKEN", "by hand", "path="): assert part in said
    assert "\n" not in said and not [*(tmp_path / "cache").rglob("*.zip")]
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert len(mind("small", min_count=1).train)
    asked = len(server.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="by hand from .* to .*MINDdemo_train.zip"): mind("demo")
    for file, content in archives[1].items():
        (path := tmp_path / "cache/downloads/MIND/demo" / file.replace("small", "demo")).parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert mind("demo", min_count=1).name == "MIND-demo" and len(server.requests) == asked, name


def test_damage(server, tmp_path):
    whole = zipped({"a.txt": bytes(range(256)) * 400})
    server.files = {"/a.zip": whole, "/plain/a.zip": whole, "/hub/a.zip": whole, "/bad.zip": whole[:-40]}
    target = tmp_path / "kept" / "a.zip"
    part, quick = target.with_name("a.zip.part"), dict(pause=0)
    for url in ("/bad.zip", "/hub/a.zip", "/a.zip"):
        server.tags["/hub/a.zip"] = "0" * 64
        with pytest.raises(InputError) as e: download([server.at + url], target, size=len(whole) + 1 if url == "/a.zip" else None, **quick)
        assert not target.exists() and "\n" not in str(e.value) and str(target) in str(e.value)
    server.cut["/a.zip"] = 300
    with pytest.raises(InputError, match="300 of"): download([f"{server.at}/a.zip"], target, attempts=1)
    assert part.stat().st_size == 300 and not target.exists()
    download([f"{server.at}/a.zip"], target, **quick)
    assert target.read_bytes() == whole and server.requests[-1][1] == 300 and not part.exists()
    for url in ("/a.zip", "/plain/a.zip"): # a beginning of something else is found out, and a server may know no ranges
        target.unlink(); part.write_bytes(b"x" * 100)
        assert download([server.at + url], target, **quick).read_bytes() == whole
    target.unlink(); server.status["/a.zip"] = 503
    with pytest.raises(InputError, match="503"): download([f"{server.at}/a.zip"], target, **quick)
    assert sum(path == "/a.zip" for path, _, _ in server.requests[-4:]) == 4
    assert download([f"{server.at}/a.zip", f"{server.at}/plain/a.zip"], target, **quick).read_bytes() == whole


def test_two_at_once(server, tmp_path):
    "Of several users of one file one fetches it."
    server.files = {"/a.zip": zipped({"a.txt": np.random.default_rng(0).bytes(2**21)})}
    found, target = [], tmp_path / "a.zip"
    threads = [threading.Thread(target=lambda: found.append(download([f"{server.at}/a.zip"], target).read_bytes())) for _ in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert found == [server.files["/a.zip"]] * 3 and len(server.requests) == 1


def test_archive_that_leaves_its_folder(server, archives):
    server.files = {PLACE.format("Recommenders", name): zipped({"../behaviors.tsv": "x"}) for name in archives[1]}
    with pytest.raises(InputError, match="'../behaviors.tsv'.*source that you trust"): mind("small")


def test_another_size_is_reported(server, archives, monkeypatch):
    server.files = {PLACE.format("Recommenders", name): content for name, content in archives[1].items()}
    monkeypatch.setattr(mirrors, "PUBLISHED", {"MINDsmall_dev.zip": 30_948_560})
    with pytest.warns(UserWarning, match="MINDsmall_dev.zip has .* where 30,948,560"): mind("small", min_count=1)


def test_glove_by_name_and_slice(server, archives, world, tmp_path):
    folder, rng = archives[0], np.random.default_rng(0)
    words = ["unheard", *mind(path=folder, min_count=1, cache=False).features.vocabulary["words"][::2]]
    lines = {width: "".join(f"{w} {' '.join(map(str, rng.normal(size=width).round(3)))}\n" for w in words) for width in (50, 100)}
    server.files = {"/GloVe/glove.6B.zip": zipped({f"glove.6B.{width}d.txt": text for width, text in lines.items()})}
    data = mind(path=folder, vectors="glove.6B.50d", min_count=1)
    assert data.word_vectors.shape[1] == 50 and data.notes["words with a vector"].startswith(f"{len(words) - 1} of ")
    path = tmp_path / "slice.safetensors"
    assert save_vectors(path, "glove.6B.50d", data.features.vocabulary["words"]) == len(words) - 1
    asked = len(server.requests)
    small = mind(path=folder, vectors=str(path), min_count=1)
    assert (small.word_vectors == data.word_vectors).all() and small.key != data.key and len(server.requests) == asked == 1
    assert read_word_vectors(path, words)[1] == len(words) - 1, "wherever a file of vectors can be given"


SYLLABLES = [chr(code) for code in (*range(0x3042, 0x3094), *range(0x4E00, 0x4E60))]


def without_spaces(text):
    "Each word as a few characters of its own, one after the other."
    words = ([SYLLABLES[b % len(SYLLABLES)] for b in hashlib.blake2b(w.encode(), digest_size=2 + len(w) % 2).digest()] for w in text.split())
    return "".join("".join(word) for word in words)


FRESH = """
import sys, numpy as np
from newsrex_nb.recommend import Recommender
from newsrex_nb.data.schema import news_table
loaded, texts = Recommender.from_pretrained(sys.argv[1]), sys.argv[2].split("|")
np.save(sys.argv[3], loaded.score([dict(title=t) for t in texts[:3]], [dict(title=t) for t in texts[3:]]))
"""


@pytest.mark.slow
def test_texts_without_spaces(server, archives, world, tmp_path, monkeypatch):
    "From xMIND's and BPEmb's files to a model that another process loads without a network and without any of them."
    pytest.importorskip("sentencepiece")
    from newsrex_nb.data.bpe import from_file, train_pieces
    from newsrex_nb.models import NRMS
    from newsrex_nb.train import fit
    folder, rng, news = archives[0], np.random.default_rng(1), world.news
    titles = {i: without_spaces(title) for i, title in zip(news.ids[1:].tolist(), news.title[1:])}
    table = "".join(f"{i}\t{title}\t\n" for i, title in titles.items())
    model = train_pieces(titles.values(), tmp_path / "ja.model", pieces=600, coverage=1.0)
    cut = from_file(str(model))
    vectors = "".join(f"{p} {' '.join(map(str, rng.normal(size=25).round(3)))}\n" for p in dict.fromkeys(p for t in titles.values() for p in cut(t)))
    packed, text = io.BytesIO(), f"{vectors.count(chr(10))} 25\n{vectors}".encode()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        (about := tarfile.TarInfo("data/ja/ja.w2v.txt")).size = len(text)
        archive.addfile(about, io.BytesIO(text))
    server.files = {"/xMIND/jpn/xMINDsmall_train.zip": zipped({"news.tsv": table}), "/xMIND/jpn/xMINDsmall_dev.zip": zipped({"news.tsv": table}),
                    "/BPEmb/ja/ja.wiki.bpe.vs1000.model": model.read_bytes(), "/BPEmb/ja/ja.wiki.bpe.vs1000.d25.w2v.txt.tar.gz": packed.getvalue(),
                    **{PLACE.format("Recommenders", name): content for name, content in archives[1].items()}}
    given = dict(language="jpn", tokenizer="bpemb.ja.1000", vectors="bpemb.ja.1000.25d", min_count=1)
    data = mind("small", **given)
    words = data.features.vocabulary["words"]
    assert data.name == "MIND-small-jpn" and data.news.title[1:] == [titles[i] for i in data.news.ids[1:].tolist()]
    assert data.news.category == mind("small", min_count=1).news.category and not any(" " in title for title in data.news.title)
    assert data.notes["words with a vector"] == f"{len(words)} of {len(words)}" and len(words) > 100
    assert data.features["title"].astype(bool).sum(1)[1:].mean() > 3, "a title is several pieces"
    trained = NRMS(data.sizes, word_vectors=data.word_vectors, word_dim=25, seed=3, **NRMS_SIZES)
    fit(trained, data, epochs=1, validation=None, verbose=0)
    saved = Recommender(trained, data).save_pretrained(tmp_path / "run")
    texts = list(titles.values())[:8]
    here = Recommender(trained, data).score([dict(title=t) for t in texts[:3]], [dict(title=t) for t in texts[3:]])
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "NEWSREX_CACHE": str(tmp_path / "empty")}
    subprocess.run([sys.executable, "-c", FRESH, saved, "|".join(texts), tmp_path / "s.npy"], check=True, env=env)
    assert np.load(tmp_path / "s.npy").tobytes() == here.tobytes() and len(set(here.tolist())) > 1
    asked = len(server.requests)
    again = mind("small", **given)
    assert again.key == data.key and (again.features["title"] == data.features["title"]).all() and len(server.requests) == asked
