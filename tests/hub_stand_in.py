"""The part of the Hugging Face hub that a saved folder meets, as a server on this machine: repositories with commits, files and LFS."""
import base64
import hashlib
import http.server
import json
import re
import threading
from urllib.parse import unquote, urlparse

TOKEN = "hf_of_the_owner"


class Repository:
    "Commits of one repository, newest last: (number, {path: bytes}); `gated` ones are seen and not read."
    def __init__(self, gated=False): self.commits, self.gated = [(hashlib.sha1(b"").hexdigest(), {})], gated

    def commit(self, files):
        text = repr(sorted(files.items())) + self.commits[-1][0]
        self.commits.append((hashlib.sha1(text.encode()).hexdigest(), dict(files)))

    def at(self, revision): # (number, files), or None
        return next(((n, f) for n, f in reversed(self.commits) if revision in ("main", n)), None)


class Hub:
    "The server: `with Hub() as hub:` … `hub.url`; `hub.log` lists what was asked for."
    def __init__(self): self.repositories, self.lfs, self.log, self.down = {}, {}, [], False

    def __enter__(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.down = True
        self.server.shutdown()
        self.server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_): pass

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""): return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, content, status=200, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items(): self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(data)

    def refuse(self, status, code, text): self.reply({"error": text}, status, X_Error_Code=code, X_Error_Message=text)

    def answer(self):
        if self.hub.down: # a connection that is still open
            self.close_connection = True
            return
        body, path = self.body(), unquote(urlparse(self.path).path)
        self.hub.log.append(f"{self.command} {path}")
        own = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if path == "/down": # from now on nobody is there
            self.hub.down = True
            self.reply({}, Connection="close")
            return threading.Thread(target=self.hub.__exit__).start()
        if path == "/api/validate-yaml": return self.reply({"errors": [], "warnings": []})
        if path.startswith("/lfs/"):
            self.hub.lfs[path.removeprefix("/lfs/")] = body
            return self.reply({})
        if self.command in ("POST", "PUT") and not own: return self.refuse(401, "", "Invalid username or password.")
        if path == "/api/repos/create":
            about = json.loads(body)
            name = f"{about['organization']}/{about['name']}" if about.get("organization") else about["name"]
            if name in self.hub.repositories: return self.reply({"error": "there already", "url": f"{self.hub.url}/{name}"}, 409)
            self.hub.repositories[name] = Repository()
            return self.reply({"url": f"{self.hub.url}/{name}", "id": name})
        found = (re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit|paths-info)/([^/]+))?(/.*)?", path)
                 or re.fullmatch(r"/([^/]+/[^/]+)/(resolve)/([^/]+)/(.*)", path)
                 or re.fullmatch(r"/([^/]+/[^/]+)\.git/(info)/lfs/objects/batch()()", path))
        if not found: return self.refuse(404, "EntryNotFound", "nothing here")
        name, action, revision, rest = found.groups()
        if name not in self.hub.repositories: return self.refuse(404 if own else 401, "RepoNotFound", "Repository not found")
        repository = self.hub.repositories[name]
        if repository.gated: return self.refuse(403, "GatedRepo", "Access to it is restricted")
        if (at := repository.at(revision or "main")) is None: return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        getattr(self, f"do_{action or 'revision'}")(name, repository, *at, rest, body)

    do_GET = do_POST = do_PUT = do_HEAD = answer

    def do_revision(self, name, repository, number, files, rest, body):
        self.reply({"id": name, "modelId": name, "sha": number, "private": False, "disabled": False, "downloads": 0, "likes": 0,
                    "tags": [], "siblings": [{"rfilename": path} for path in files]})

    def do_tree(self, name, repository, number, files, rest, body):
        self.reply([{"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest(), **self.large(path, data)}
                    for path, data in files.items()])

    def large(self, path, data):
        lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return {"lfs": lfs} if path.endswith(".safetensors") else {}

    def do_resolve(self, name, repository, number, files, path, body):
        if path not in files: return self.refuse(404, "EntryNotFound", "Entry not found")
        large, data = self.large(path, files[path]), files[path]
        linked = dict(X_Linked_Etag=f'"{large["lfs"]["oid"]}"', X_Linked_Size=len(data)) if large else {}
        self.reply(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=number, Accept_Ranges="bytes", **linked)

    def do_preupload(self, name, repository, number, files, rest, body):
        mode = lambda path: "lfs" if path.endswith(".safetensors") else "regular"
        self.reply({"files": [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False, "oid": None}
                              for f in json.loads(body)["files"]]})

    def do_info(self, name, repository, number, files, rest, body):
        where = lambda oid: {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{oid}"}}} if oid not in self.hub.lfs else {}
        self.reply({"transfer": "basic", "objects": [{**o, **where(o["oid"])} for o in json.loads(body)["objects"]]})

    def do_commit(self, name, repository, number, files, rest, body):
        files = dict(files)
        for line in map(json.loads, body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "file": files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile": files[value["path"]] = self.hub.lfs[value["oid"]]
            elif key == "deletedFile": del files[value["path"]]
        repository.commit(files)
        number = repository.commits[-1][0]
        self.reply({"success": True, "commitOid": number, "commitUrl": f"{self.hub.url}/{name}/commit/{number}"})
