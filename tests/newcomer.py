#!/usr/bin/env python3
"""The commands that the README shows, in the order in which a newcomer types them, against the release binary.

Each check is one command and what a person must see. The servers are the published ones that the interop tests use.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import sys
import tempfile
import urllib.error
import urllib.request

sys.dont_write_bytecode = True  # the tree stays clean
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import host  # noqa: E402

SECONDS = 60
CONVERT = {"source_timezone": "UTC", "time": "16:30", "target_timezone": "Asia/Kathmandu"}


class Checks:
    """Counts what held and prints what did not."""

    def __init__(self):
        self.passed = self.failed = 0

    def that(self, what, holds, otherwise=""):
        self.passed, self.failed = self.passed + bool(holds), self.failed + (not holds)
        print(f"  {'ok  ' if holds else 'FAIL'} {what}{'' if holds else f': {otherwise}'}", flush=True)

    @contextlib.contextmanager
    def story(self, what):
        """A story that cannot go on is one failed check; the next story still runs."""
        print(what, flush=True)
        try:
            yield
        except Exception as error:
            self.that(what, False, f"{type(error).__name__}: {error}")


class Desk:
    """A newcomer's terminal: a home of its own, and the program."""

    def __init__(self, checks, scratch, name):
        self.checks = checks
        self.home = scratch / name
        self.home.mkdir()
        self.env = {**os.environ, "HOME": str(self.home), "XDG_STATE_HOME": str(self.home / "state")}
        self.state = self.home / "staithe"
        self.staithe = [host.staithe_binary(), "--state-dir", self.state]

    def types(self, *words, exits=0, sees=(), json_too=False):
        """One command to its end: its exit code and what it must print (on stdout, or on stderr where it fails)."""
        command = [*self.staithe, *(["--json"] if json_too else []), *words]
        code, out, err = host.finished(command, SECONDS, env=self.env, cwd=self.home)
        missing = [text for text in sees if text not in (out if code == 0 else err)]
        shown = f"exit {code}, wanted {exits}; missing {missing}; stdout: {out[-500:]!r}; stderr: {err[-500:]!r}"
        self.checks.that(f"staithe {' '.join(str(word) for word in words)}", code == exits and not missing, shown)
        return out


def post(url, method, params):
    """One request of the 2026-07-28 era, as a client without any library would send it."""
    meta = {f"io.modelcontextprotocol/{key}": value for key, value in (("protocolVersion", "2026-07-28"), ("clientCapabilities", {}))}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method}
    if "name" in params:
        headers["Mcp-Name"] = params["name"]
    return fetch(urllib.request.Request(url, data=body, headers=headers))


def fetch(request):
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return None, repr(error)


def listening(line):
    return re.fullmatch(r"listening public=(http://127\.0\.0\.1:\d+) operator=(http://127\.0\.0\.1:\d+)", line)


def demo(checks, desk):
    """`staithe demo`: a host, a server, one call and what to do next, until Ctrl-C."""
    program = host.Program([host.staithe_binary(), "demo"], "newcomer-demo", env=desk.env, cwd=desk.home)
    try:
        public, operator = listening(program.line(listening)).groups()
        address = re.compile(re.escape(public) + r"/mcp/[A-Za-z0-9._-]+")
        url = address.search(program.line(address.search)).group()
        for path in ("/healthz", "/readyz"):
            status, text = fetch(operator + path)
            checks.that(f"demo answers {path}", status == 200, f"{status} {text}")
        status, text = post(url, "tools/list", {})
        checks.that("demo lists its tools at the address that it prints", status == 200 and '"echo"' in text, f"{status} {text}")
    finally:
        wrong = program.stop(signal.SIGINT)
        checks.that("demo ends cleanly on Ctrl-C", wrong is None, wrong)


def run(checks, desk):
    """`staithe run`: one server, with a token, and open only where nobody else can reach it."""
    desk.types("run", "--open", "--listen", "0.0.0.0:0", "--", "true", exits=2)
    server = [host.node(), host.npm() / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"]
    command = [*desk.staithe, "run", "--listen", "127.0.0.1:0", "--name", "everything", "--", *server]
    program = host.Program(command, "newcomer-run", env=desk.env, cwd=desk.home)
    try:
        public = listening(program.line(listening)).group(1)
        status, text = post(f"{public}/mcp/everything", "tools/list", {})
        checks.that("run refuses a caller without the token", status == 401, f"{status} {text}")
        desk.types("call", "everything", "echo", '{"message":"hello there"}', sees=["Echo: hello there"])
        desk.types("call", "everything", sees=["echo", "Echoes back the input"])
        other = desk.home / "other.json"
        other.write_text('{"mcpServers": {"lost": {"command": "true"}}}')
        desk.types("import", other, exits=1, sees=["a `staithe run` holds this state directory"])
        # What this run printed, a second run on the same state directory says too: who holds it.
        desk.types("run", "--listen", "127.0.0.1:0", "--", "true", exits=1, sees=[str(program.process.pid)])
    finally:
        wrong = program.stop()
        checks.that("run ends cleanly on SIGTERM", wrong is None, wrong)


def serve(checks, desk):
    """`import`, then `serve`, then the operator's commands."""
    wild = desk.home / "mcp.json"
    wild.write_text(wild_configuration(desk.home))
    desk.types("import", wild, sees=["everything", "clock"])
    desk.types("status", exits=1)
    config = desk.home / "staithe.toml"
    config.write_text('listen.public = "127.0.0.1:0"\nlisten.operator = "127.0.0.1:0"\n')
    desk.types("check", "--config", config, sees=["public"])
    program = host.Program([*desk.staithe, "serve", "--config", config], "newcomer-serve", env=desk.env, cwd=desk.home)
    try:
        operator = listening(program.line(listening)).group(2)
        operate(desk)
        status, text = fetch(operator + "/readyz")
        checks.that("/readyz says ready", status == 200, f"{status} {text}")
    finally:
        wrong = program.stop()
        checks.that("serve ends cleanly on SIGTERM", wrong is None, wrong)


def operate(desk):
    desk.types("servers", sees=["everything", "clock"])
    desk.types("status", sees=["clock"])
    desk.types("call", "everything", "echo", '{"message":"hello"}', sees=["Echo: hello"])
    desk.types("call", "clock", "convert_time", json.dumps(CONVERT), sees=["T22:15:00+05:45"])
    desk.types("call", "clock", "convert_time", '{"time":"never"}', exits=1)
    desk.types("call", "nobody", "echo", exits=3, sees=["nobody"])
    out = desk.types("servers", json_too=True)
    with contextlib.suppress(ValueError, TypeError, KeyError):
        out = {server["name"] for server in json.loads(out)}
    desk.checks.that("servers --json is JSON that names them", out == {"everything", "clock"}, out)
    for words in (["instances"], ["sessions"], ["instances", "clock"], ["logs", "everything"]):
        desk.types(*words)
    desk.types("stop", "clock")
    desk.types("call", "clock", "convert_time", json.dumps(CONVERT), exits=5, sees=["clock is stopped"])
    desk.types("stop", "clock", sees=["already"])
    desk.types("restart", "clock", exits=1, sees=["it is stopped", "staithe start clock"])
    desk.types("start", "clock")
    desk.types("restart", "clock")
    desk.types("call", "clock", "convert_time", json.dumps(CONVERT), sees=["T22:15:00+05:45"])
    token = desk.types("token", "create", "--principal", "alice", "--server", "clock", "--expires-in", "1d", sees=["st_"]).split("\n")[0]
    desk.types("token", "revoke", token, sees=["is refused from now on"])
    desk.types("token", "list", sees=["alice"])
    desk.types("remove", "everything")
    desk.types("call", "everything", "echo", '{"message":"hello"}', exits=3)


def wild_configuration(home):
    """A VS Code file as people have it: a comment, a trailing comma, fields of other programs."""
    everything = str(host.npm() / "node_modules/@modelcontextprotocol/server-everything/dist/index.js")
    clock = str(pathlib.Path(host.python()).parent / "mcp-server-time")
    return f"""{{
  // from my laptop
  "servers": {{
    "everything": {{ "type": "stdio", "command": {json.dumps(host.node())}, "args": [{json.dumps(everything)}], "gallery": true, }},
    "clock": {{ "command": {json.dumps(clock)}, "args": ["--local-timezone", "UTC"], "env": {{ "PAGER": "cat" }}, "cwd": {json.dumps(str(home))} }},
  }},
}}
"""


def main():
    host.adopt_orphans()
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="staithe-newcomer-") as folder:
        scratch = pathlib.Path(folder).resolve()
        for story in (demo, run, serve):
            with checks.story(story.__doc__):
                story(checks, Desk(checks, scratch, story.__name__))
    host.count("newcomer", checks.passed, checks.failed)
    return 0 if checks.passed and not checks.failed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except host.Broken as broken:
        sys.exit(f"newcomer: {broken}")
