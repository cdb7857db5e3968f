#!/usr/bin/env python3
"""A log that the release binary wrote, verified by programs of others: Go's sumdb code, and Python's `cryptography`.

A host serves calls, is stopped and started again, and its checkpoints are kept as they come. Then both programs must say that the
log is right, and that it is wrong once a single bit of it was changed. Only documents tell them what the files are.
"""

import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

sys.dont_write_bytecode = True  # the tree stays clean
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import host  # noqa: E402

SECONDS = 60
CALLERS, CALLS = 8, 60
CHECKPOINT_SECONDS = 20  # one is signed every second
WORK = host.KIT / "ledger"
META = {f"io.modelcontextprotocol/{key}": value for key, value in (("protocolVersion", "2026-07-28"), ("clientCapabilities", {}))}


class Checks:
    def __init__(self):
        self.passed, self.wrong = 0, []

    def that(self, what, holds, otherwise=""):
        print(f"  {'ok  ' if holds else 'FAIL'} {what}{': ' + str(otherwise).strip() if otherwise else ''}", flush=True)
        self.passed += bool(holds)
        self.wrong += [] if holds else [f"{what}: {otherwise}"]


# ---- A log -------------------------------------------------------------------------------------------------------------------------


def call(connection, path, token, number):
    """One call on a connection that stays open."""
    params = {"name": "echo", "arguments": {"text": f"call {number}"}, "_meta": META}
    body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
    headers = {
        "Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call", "Mcp-Name": "echo", "Authorization": f"Bearer {token}",
    }
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200 or f"call {number}" not in text:
        raise host.Broken(f"a call was answered {answer.status}: {text[-300:]}")


def caller(told, first):
    url = urllib.parse.urlsplit(told["url"])
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=SECONDS)
    for number in range(first, first + CALLS):
        call(connection, url.path, told["token"], number)
    connection.close()


class Keeper:
    """Keeps every checkpoint that it sees, as somebody would who does not trust the host."""

    def __init__(self, log, kept):
        self.log, self.kept, self.over = log, kept, threading.Event()
        kept.mkdir(exist_ok=True)
        self.thread = threading.Thread(target=self.watch)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def watch(self):
        while not self.over.wait(0.05):
            self.look()

    def look(self):
        path = self.log / "checkpoint"
        if path.exists():
            text = path.read_text()
            (self.kept / text.split("\n")[1].zfill(20)).write_text(text)

    def count(self):
        return len(list(self.kept.iterdir()))

    def more_than(self, before):
        """Waits until there are more checkpoints than `before`."""
        until = time.monotonic() + CHECKPOINT_SECONDS
        while self.count() == before and time.monotonic() < until:
            time.sleep(0.05)
        if self.count() == before:
            raise host.Broken(f"no checkpoint was signed in {CHECKPOINT_SECONDS} s after calls")


def lived(home, log, turns):
    """One life of a host: so many turns of all callers, each with a checkpoint after it, which is kept."""
    with Keeper(home / "state" / "ledger", home / "kept") as keeper:
        with host.served({"echo": {"command": host.kit_binary("echo")}}, log, False, home) as told:
            for turn in range(turns):
                before = keeper.count()
                with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
                    firsts = [(turn * CALLERS + one) * CALLS for one in range(CALLERS)]
                    list(pool.map(lambda first: caller(told["echo"], first), firsts))
                keeper.more_than(before)
    keeper.look()


def written(scratch):
    """Two lives of a host write a log; what they signed meanwhile is kept. And a fork: another second life, with the same keys."""
    home, fork = scratch / "home", scratch / "fork"
    home.mkdir()
    lived(home, "ledger-first", 2)
    shutil.copytree(home / "state", fork / "state")
    lived(home, "ledger-second", 2)
    lived(fork, "ledger-fork", 3)
    return home, fork / "state" / "ledger"


def proved(state, out, size):
    """Proofs of some records, as an operator hands them out."""
    out.mkdir()
    for index in sorted({0, size - 1, *random.sample(range(size), 10)}):
        path = out / f"{index}"
        code, _, err = host.finished([host.staithe_binary(), "--state-dir", state, "audit", "prove", str(index), "--out", path], SECONDS)
        if code != 0:
            raise host.Broken(f"audit prove {index} ended with {code}: {err[-300:]}")


# ---- Those who verify --------------------------------------------------------------------------------------------------------------


def go_program():
    """Our program, compiled with the sumdb code that the Go toolchain itself carries. No network is needed."""
    go = pathlib.Path(host.python()).parent / "go"
    if not go.exists():
        raise host.Broken(f"{go} is missing: run `./test tools` first")
    module = WORK / "module"
    shutil.rmtree(module, ignore_errors=True)
    (module / "mod").mkdir(parents=True)
    env = {**os.environ, "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0",
           "GOTELEMETRY": "off", "GOCACHE": str(WORK / "cache"), "GOPATH": str(WORK / "path"), "GOENV": "off"}
    root = pathlib.Path(subprocess.run([go, "env", "GOROOT"], env=env, check=True, capture_output=True, text=True).stdout.strip())
    vendored = root / "src/cmd/vendor/golang.org/x/mod/sumdb"
    for package in ("tlog", "note"):
        shutil.copytree(vendored / package, module / "mod/sumdb" / package)
    shutil.copy(HERE / "check.go", module / "main.go")
    (module / "mod/go.mod").write_text("module golang.org/x/mod\n\ngo 1.24\n")
    (module / "go.mod").write_text(
        "module check\n\ngo 1.24\n\nrequire golang.org/x/mod v0.0.0\n\nreplace golang.org/x/mod => ./mod\n"
    )
    program = WORK / "check"
    code, out, err = host.finished([go, "build", "-trimpath", "-o", program, "."], 300, env=env, cwd=module)
    if code != 0:
        raise host.Broken(f"go build ended with {code}: {(err or out)[-800:]}")
    return program


def go_says(log, keys, kept, _proofs):
    return host.finished([WORK / "check", log, keys, kept], SECONDS)


def python_says(log, keys, kept, proofs):
    return host.finished([host.python(), HERE / "verify.py", log, keys, kept, proofs], SECONDS)


def staithe_says(log, keys, _kept, _proofs):
    return host.finished([host.staithe_binary(), "audit", "verify", log, "--key", keys], SECONDS)


# ---- What must be seen -------------------------------------------------------------------------------------------------------------


def flip(path, at, bit=None):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << (random.randrange(8) if bit is None else bit)
    path.write_bytes(content)


def in_entry(log):
    """Somewhere in an entry that a checkpoint covers, of whatever kind the record is."""
    path = log / "wal" / f"{0:020}.seg"
    content, at, found = path.read_bytes(), 4096, []
    while (word := int.from_bytes(content[at : at + 4], "little")) != 0:
        begin, end = at + 8, at + 8 + (word & 0xFFFFFF)
        found += [(begin, end)] if word >> 24 == 1 else []
        at = end
    begin, end = random.choice(found[: size_of(log)])
    flip(path, random.randrange(begin, end))


def without_an_entry(log):
    """The last entry that the checkpoint covers is taken out."""
    path = log / "wal" / f"{0:020}.seg"
    content, at, count = path.read_bytes(), 4096, 0
    while True:
        word = int.from_bytes(content[at : at + 4], "little")
        end = at + 8 + (word & 0xFFFFFF)
        count += word >> 24 == 1
        if count == size_of(log):
            break
        at = end
    path.write_bytes(content[:at] + content[end:])


def size_of(log):
    return int((log / "checkpoint").read_text().split("\n")[1])


def in_tile(log):
    path = random.choice([path for path in sorted((log / "tile").rglob("*")) if path.is_file()])
    flip(path, random.randrange(path.stat().st_size))


def in_signature(which):
    """In the middle of a signature of the checkpoint: 0 is Ed25519, 1 is ML-DSA-44. The base64 stays canonical."""

    def change(log):
        path = log / "checkpoint"
        lines = path.read_text().split("\n")
        at = [number for number, line in enumerate(lines) if line.startswith("— ")]
        at = sorted(at, key=lambda number: len(lines[number]))[which]
        line = lines[at]
        middle = len(line) - len(line.split(" ")[-1]) // 2
        lines[at] = line[:middle] + ("A" if line[middle] != "A" else "B") + line[middle + 1 :]
        path.write_text("\n".join(lines))

    return change


def checkpoint_line(number, change):
    def changed(log):
        path = log / "checkpoint"
        lines = path.read_text().split("\n")
        lines[number] = change(lines[number])
        path.write_text("\n".join(lines))

    return changed


def in_kept(_log, kept):
    path = random.choice(sorted(kept.iterdir()))
    lines = path.read_text().split("\n")
    lines[2] = ("A" if lines[2][0] != "A" else "B") + lines[2][1:]
    path.write_text("\n".join(lines))


def older(log, kept):
    """The log with an earlier checkpoint, and without what came later: what a rollback leaves. The kept checkpoints show it."""
    shutil.copy(sorted(kept.iterdir())[0], log / "checkpoint")


def in_proof(proofs):
    path = random.choice(sorted(proofs.glob("*.tlog-proof")))
    lines = path.read_text().split("\n")
    lines[2] = ("A" if lines[2][0] != "A" else "B") + lines[2][1:]
    path.write_text("\n".join(lines))


def in_proved_entry(proofs):
    path = random.choice(sorted(proofs.glob("*.entry")))
    flip(path, random.randrange(path.stat().st_size))


GO, PYTHON, OURS = ("Go's sumdb", go_says), ("Python", python_says), ("staithe", staithe_says)
# What is changed in the log alone, and who must refuse it then.
CHANGES = [
    *[(f"a bit of an entry ({turn})", in_entry, (GO, PYTHON, OURS)) for turn in range(3)],
    ("an entry less", without_an_entry, (GO, PYTHON, OURS)),
    *[(f"a bit of a tile ({turn})", in_tile, (GO, PYTHON, OURS)) for turn in range(2)],
    ("the Ed25519 signature", in_signature(0), (GO, PYTHON, OURS)),
    ("the ML-DSA-44 signature", in_signature(1), (PYTHON, OURS)),  # a kind of signature that the code of Go does not have
    ("the root", checkpoint_line(2, lambda root: ("A" if root[0] != "A" else "B") + root[1:]), (GO, PYTHON, OURS)),
    ("the size", checkpoint_line(1, lambda size: str(int(size) - 1)), (GO, PYTHON, OURS)),
]


def attacked(checks, scratch, log, keys, kept, proofs):
    """One change, in a copy, and each who must see it."""

    def copied(what, change, who, of):
        folder = scratch / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        copies = [shutil.copytree(source, folder / source.name) for source in (log, kept, proofs)]
        change(*(copies[at] for at in of))
        for name, says in who:
            code, out, err = says(copies[0], keys, *copies[1:])
            words = (out if says is not staithe_says else err or out).strip().splitlines()[-1:]
            # A verifier that breaks down has refused nothing.
            refused = code == (5 if says is staithe_says else 1) and (says is staithe_says or out.startswith("refused: "))
            checks.that(f"{name} refuses {what}", refused, "" if refused else f"exit {code}: {words} {err[-300:]}")

    for what, change, who in CHANGES:
        copied(what, change, who, [0])
    copied("a kept checkpoint that was changed", in_kept, (GO, PYTHON), [0, 1])
    copied("a log that was set back", older, (GO, PYTHON), [0, 1])
    copied("a proof that was changed", in_proof, (PYTHON,), [2])
    copied("an entry that was changed beside its proof", in_proved_entry, (PYTHON,), [2])


def forked(checks, fork, keys, kept, proofs):
    """The fork is a log like any other to whoever kept nothing. A kept checkpoint shows that it is another."""
    shared, nothing = sorted(kept.iterdir()), kept.parent / "nothing"
    nothing.mkdir()
    for name, says in (GO, PYTHON):
        code, out, err = says(fork, keys, nothing, nothing)
        checks.that(f"{name} verifies a fork by itself", code == 0, "" if code == 0 else f"exit {code}: {out} {err[-300:]}")
        code, out, err = says(fork, keys, kept, proofs)
        checks.that(f"{name} refuses a fork beside kept checkpoints", code == 1 and out.startswith("refused: "), f"exit {code}: {out} {err[-300:]}")
    words = [host.staithe_binary(), "audit", "verify", fork, "--key", keys, "--since"]
    for path, wanted in ((shared[0], 0), (shared[-1], 5)):
        code, _, err = host.finished([*words, path], SECONDS)
        checks.that(f"staithe {'verifies' if wanted == 0 else 'refuses'} a fork since {int(path.name)} entries", code == wanted, err[-300:])


def main():
    seed = int(os.environ.get("STAITHE_LEDGER_SEED") or time.time_ns())
    print(f"STAITHE_LEDGER_SEED={seed}")
    random.seed(seed)
    host.adopt_orphans()
    checks = Checks()
    WORK.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    go_program()
    print(f"  Go's verifier was compiled in {time.monotonic() - began:.1f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="staithe-ledger-") as folder:
        scratch = pathlib.Path(folder).resolve()
        began = time.monotonic()
        home, fork = written(scratch)
        log, kept, proofs, keys = home / "state" / "ledger", home / "kept", scratch / "proofs", scratch / "log.vkeys"
        size = size_of(log)
        shutil.copy(log / "vkeys", keys)
        proved(home / "state", proofs, size)
        calls = 4 * CALLERS * CALLS
        print(f"  {calls} calls in two lives of the host: {size} records in {time.monotonic() - began:.1f} s", flush=True)
        checks.that("every call has two records", size > 2 * calls, f"{size} records")
        checks.that("checkpoints were kept", len(list(kept.iterdir())) >= 4, f"{len(list(kept.iterdir()))} of them")
        for name, says in (GO, PYTHON, OURS):
            code, out, err = says(log, keys, kept, proofs)
            checks.that(f"{name} verifies the log", code == 0, (out if says is not staithe_says else "") if code == 0 else f"exit {code}: {out} {err[-400:]}")
        attacked(checks, scratch, log, keys, kept, proofs)
        forked(checks, fork, keys, kept, proofs)
    host.count("ledger", checks.passed, len(checks.wrong), checks.wrong)
    return 0 if checks.passed and not checks.wrong else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except host.Broken as broken:
        sys.exit(f"ledger: {broken}")
