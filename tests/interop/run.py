#!/usr/bin/env python3
"""Published MCP servers behind staithe, called by the published clients, in both eras and under both auth settings.

usage: run.py [--server NAME]… [--client NAME]… [--kind KIND]… [--jobs N] [--direct URL]

Each cell is one client program and one plan. By kind:

    call     lists the tools and calls one, whose answer is checked
    ask      calls tools that ask the client back (the user, its model, its roots); the client answers, and its answer must arrive
    watch    subscribes to a resource and to lists, makes the server change them, and must hear of it
    resume   the stream of a call is cut in the middle, and the client must get the rest when it comes back
    sse      the same as `call`, `ask` and `watch` over the HTTP+SSE transport of 2024-11-05
    refuse   no token and a wrong one: must be refused with 401

A client that cannot do something is printed with the reason, and a cell that fails today stands in NOT_YET with its own: the run fails where
another cell fails and where one of these passes. `--direct` needs no staithe: it runs the clients straight against the Streamable HTTP
address of a server-everything, to show that a failure is not theirs.

A client program gets its plan as one JSON argument:

    url, token, era      where to go, as whom, "legacy" or "modern"
    transport            "http" (Streamable HTTP) or "sse"
    calls                the tools to call, in turn: [{tool, arguments}]
    answer, roots        what the user and the model say and which root there is; without them, the client declares that it cannot be asked
    watch                {uri, wanted}: what to subscribe to first, and the methods of the notifications to wait for
    cut                  true: the stream of the first call breaks

and prints a report as one JSON line: {"ok":true,"protocol","tools","texts","isError","heard","resumed"} or {"ok":false,"status","error"}.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True  # the tree stays clean
sys.path.insert(0, str(HERE.parent))
import host  # noqa: E402

CANARY = "canary-5a1f0c77"
# Where a server sends back what it got, each cell says something of its own, so that an answer to another cell is noticed.
ECHO = f"{CANARY}-of-this-cell"
CELL_SECONDS = 60
PROTOCOL = {"legacy": "2025-11-25", "modern": "2026-07-28"}


RESOURCE_UPDATED = "notifications/resources/updated"
RESOURCES_CHANGED = "notifications/resources/list_changed"
TOOLS_CHANGED = "notifications/tools/list_changed"


@dataclasses.dataclass(frozen=True)
class Watch:
    """A resource to subscribe to, the calls that change it and a list, and what must be heard of it."""

    uri: str
    calls: tuple
    wanted: tuple


@dataclasses.dataclass(frozen=True)
class Server:
    """A server's command line, one call whose answer is known, and what else it can be used for."""

    command: list
    tools: set
    tool: str
    arguments: dict
    expected: str
    # The one era that it speaks, or None for both.
    speaks: str | None = None
    # Options of `staithe run`.
    options: tuple = ()
    # Tools that ask the client back, each with its arguments: its answer holds what the client said.
    asks: tuple = ()
    watch: Watch | None = None
    # A call that takes a while and reports its progress, and the beginning of its answer.
    slow: tuple | None = None
    # Whether it stands for its era behind the HTTP+SSE transport.
    over_sse: bool = False
    # Where it listens itself, and which kind of mcpServers entry says so; else it speaks over stdin and stdout.
    remote: tuple | None = None

    def for_cell(self, cell):
        """The same server with arguments and an answer that no other cell has."""
        mine = canary_of(cell)
        arguments = {name: value.replace(ECHO, mine) for name, value in self.arguments.items()}
        return dataclasses.replace(self, arguments=arguments, expected=self.expected.replace(ECHO, mine))


def canary_of(cell):
    return f"{CANARY}-{cell.replace(' ', '-')}"


def published(scratch):
    """The servers that npm and PyPI offer. `scratch` holds the files that they are allowed to see."""
    modules = host.npm() / "node_modules" / "@modelcontextprotocol"
    scripts = pathlib.Path(host.python()).parent
    folder, repository = canary_folder(scratch), canary_repository(scratch)
    return {
        "everything": Server(
            [host.node(), modules / "server-everything/dist/index.js"],
            {"echo", "get-sum"}, "echo", {"message": ECHO}, f"Echo: {ECHO}",
            speaks="legacy",
            asks=(
                ("trigger-elicitation-request", {}),
                ("trigger-sampling-request", {"prompt": "Say it.", "maxTokens": 100}),
                ("get-roots-list", {}),
            ),
            watch=Watch(
                "demo://resource/static/document/features.md",
                # Twice: all clients of a host toggle the same updates, and one of two goes on.
                (("toggle-subscriber-updates", {}), ("toggle-subscriber-updates", {}), ("gzip-file-as-resource", {"name": "a.gz", "data": "data:text/plain,a"})),
                (RESOURCE_UPDATED, RESOURCES_CHANGED),
            ),
            slow=("trigger-long-running-operation", {"duration": 2, "steps": 4}, "Long running operation completed"),
            over_sse=True,
        ),
        "filesystem": Server(
            [host.node(), modules / "server-filesystem/dist/index.js", folder],
            {"list_directory", "read_text_file"}, "read_text_file", {"path": str(folder / "canary.txt")}, CANARY,
        ),
        "git": Server(
            [scripts / "mcp-server-git", "--repository", repository],
            {"git_log", "git_status"}, "git_log", {"repo_path": str(repository)}, CANARY,
        ),
        "time": Server(
            [scripts / "mcp-server-time", "--local-timezone", "UTC"],
            {"get_current_time", "convert_time"}, "convert_time",
            {"source_timezone": "UTC", "time": "16:30", "target_timezone": "Asia/Kathmandu"}, "T22:15:00+05:45",
        ),
    }


def remotes(everything):
    """The same server where it speaks HTTP itself. A second set of asks and watches shows that nothing depends on pipes."""
    loopback = ["--import", HERE / "servers/loopback.mjs"]
    kinds = {"everything-http": ("streamableHttp", ("http", "/mcp")), "everything-sse": ("sse", ("sse", "/sse"))}
    return {
        name: dataclasses.replace(everything, command=[host.node(), *loopback, everything.command[1], word], remote=remote, slow=None, over_sse=False)
        for name, (word, remote) in kinds.items()
    }


def built():
    """Small servers of tests/interop/servers, built with the published SDKs, each held to one era."""
    watch = Watch("note://watched", (("touch", {}), ("grow", {})), (RESOURCE_UPDATED, TOOLS_CHANGED))
    known = {"tools": {"echo", "ask-user"}, "tool": "echo", "arguments": {"message": ECHO}, "expected": f"Echo: {ECHO}"}
    asks = (("ask-user", {}), ("ask-model", {}), ("ask-roots", {}))
    typescript = [host.node(), HERE / "servers/ts_server.mjs"]
    python = [host.python(), HERE / "servers/py_server.py"]
    return {
        "sdk-ts-modern": Server(typescript, speaks="modern", asks=(*asks, ("ask-twice", {})), watch=watch, over_sse=True, **known),
        "sdk-py-modern": Server(python, speaks="modern", asks=asks, watch=watch, options=("--era", "modern"), **known),
        # It offers legacy clients nothing to watch.
        "sdk-py-legacy": Server(python, speaks="legacy", asks=asks, options=("--era", "legacy"), **known),
    }


def ours():
    """The servers of crates/testkit: each era on its own, and one built with rmcp."""
    text = {"text": ECHO, "message": ECHO}
    kit = {f"kit-{era}": [host.kit_binary("everything"), f"--{era}"] for era in ("legacy", "modern", "dual")}
    kit["kit-rmcp"] = [host.kit_binary("rmcp-server")]
    return {name: Server(command, {"echo"}, "echo", text, ECHO) for name, command in kit.items()}


def canary_folder(scratch):
    folder = scratch / "files"
    folder.mkdir()
    (folder / "canary.txt").write_text(CANARY + "\n")
    return folder


def canary_repository(scratch):
    repository = scratch / "repository"
    repository.mkdir()
    (repository / "file.txt").write_text("one line\n")
    who = ["-c", "user.name=Interop", "-c", "user.email=interop@localhost", "-c", "commit.gpgsign=false"]
    for command in (["init", "--quiet", "-b", "main"], ["add", "file.txt"], [*who, "commit", "--quiet", "-m", CANARY]):
        subprocess.run(["git", *command], cwd=repository, check=True, timeout=30)
    return repository


def typescript(line):
    def run(plan, _scratch):
        command = [host.node(), HERE / "clients" / "ts_client.mjs", line, json.dumps(plan)]
        return last_line(*host.finished(command, CELL_SECONDS, cwd=host.npm()))

    return run


def python_sdk(plan, _scratch):
    return last_line(*host.finished([host.python(), HERE / "clients" / "py_client.py", json.dumps(plan)], CELL_SECONDS))


def rmcp(plan, scratch):
    report = pathlib.Path(tempfile.mkdtemp(dir=scratch)) / "report.json"
    env = {**os.environ, "STAITHE_INTEROP_PLAN": json.dumps(plan), "STAITHE_INTEROP_REPORT": str(report)}
    code, out, err = host.finished([rmcp_binary(), "--ignored", "--exact", "matrix_cell"], CELL_SECONDS, env=env)
    return json.loads(report.read_text()) if report.exists() else last_line(code, out, err)


@functools.cache
def rmcp_binary():
    """The test program of crates/staithe that is the rmcp client; cargo builds it where needed and says where it is."""
    if given := os.environ.get("STAITHE_TEST_RMCP_CLIENT"):
        return given
    command = ["cargo", "test", "--release", "--quiet", "--workspace", "--test", "rmcp_client", "--no-run", "--message-format", "json"]
    built = subprocess.run(command, cwd=host.ROOT, stdout=subprocess.PIPE, text=True, check=True)
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "rmcp_client" and message.get("executable"):
            return message["executable"]
    raise host.Broken("cargo built no rmcp_client test program")


def inspector(plan, scratch):
    """The Inspector's command line does one method per run, so a cell is several. It keeps files in its home, hence a home per cell."""
    home = tempfile.mkdtemp(dir=scratch)
    launcher = host.npm() / "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
    command = [host.node(), launcher, "--cli", plan["url"], "--transport", plan["transport"], "--format", "json", "--quiet"]
    command += ["--stored-auth-only", "--protocol-era", plan["era"]]
    if plan["token"]:
        command += ["--header", f"Authorization: Bearer {plan['token']}"]
    calls = [["tools/call", "--tool-name", call["tool"], "--tool-args-json", json.dumps(call["arguments"])] for call in plan["calls"]]
    answers = []
    for method in (["initialize"], ["tools/list"], *calls):
        code, out, err = host.finished([*command, "--method", *method], CELL_SECONDS, env={**os.environ, "HOME": home})
        if code != 0:
            # Its exit code 3 with `auth_required` is how it says 401.
            refused = code == 3 and '"auth_required"' in err
            return {"ok": False, "status": 401 if refused else None, "error": f"{method[0]}: exit {code}: {(err or out)[-600:]}"}
        answers.append(json.loads(out)["result"])
    return {
        "ok": True,
        "protocol": answers[0].get("protocolVersion"),
        "tools": [tool["name"] for tool in answers[1]["tools"]],
        "texts": ["\n".join(part["text"] for part in answer["content"] if part["type"] == "text") for answer in answers[2:]],
        "isError": any(answer.get("isError") for answer in answers[2:]),
    }


def last_line(code, out, err):
    try:
        return json.loads(out.strip().splitlines()[-1])
    except (IndexError, ValueError):
        ending = f"took longer than {CELL_SECONDS} s" if code is None else f"exit {code}"
        return {"ok": False, "status": None, "error": f"no report, {ending}: {(err or out)[-600:]}"}


# Client name: (program, eras that it speaks).
CLIENTS = {
    "ts-v1": (typescript("v1"), ("legacy",)),
    "ts-v2": (typescript("v2"), ("legacy", "modern")),
    "python": (python_sdk, ("legacy", "modern")),
    "rmcp": (rmcp, ("legacy", "modern")),
    "inspector": (inspector, ("legacy", "modern")),
}

# What a client cannot do, whatever is at the other end: (client, kind) to the reason.
CANNOT = {
    ("inspector", "ask"): "its command line has nobody who could answer",
    ("inspector", "watch"): "its command line ends after one method",
    ("inspector", "resume"): "its command line ends after one method",
    ("python", "resume"): "nothing in it can be made to lose its connection on purpose",
    ("rmcp", "resume"): "nothing in it can be made to lose its connection on purpose",
    ("rmcp", "sse"): "it has no HTTP+SSE transport",
}

# Cells that do not work yet, by kind, era of the client and era of the server, and why. One that works fails the run.
NOT_YET = {}


class Cell:
    """One client program with one plan in front of one host."""

    def __init__(self, kind, client, era, title):
        self.kind, self.client, self.era = kind, client, era
        self.title, self.column = title, f"{client} {era}"
        self.mark = canary_of(f"{title} {self.column}")
        # A legacy server asks for the roots once and keeps them, so all clients of a host, one principal, name the same.
        self.roots = f"file:///{CANARY}-{title.partition(',')[0]}"

    def not_yet(self, server):
        only_calls = self.kind == "sse" and (self.client, "ask") in CANNOT
        return None if only_calls else NOT_YET.get((self.kind, self.era, server.speaks))

    def plan(self, server, told):
        """What the client is told, and what its answers must hold, call by call."""
        plan = {"url": told["url"], "token": told["token"], "era": self.era, "transport": "http"}
        if self.kind == "sse":
            plan |= {"url": told["url"].replace("/mcp/", "/sse/"), "transport": "sse"}
        mine = server.for_cell(f"{self.title} {self.column}")
        calls = [(mine.tool, mine.arguments, mine.expected)]
        if self.kind in ("ask", "sse") and server.asks and (self.client, "ask") not in CANNOT:
            plan |= {"answer": self.mark, "roots": self.roots}
            calls += [(tool, arguments, self.roots if "roots" in tool else self.mark) for tool, arguments in server.asks]
        if self.kind in ("watch", "sse") and server.watch and (self.client, "watch") not in CANNOT:
            plan["watch"] = {"uri": server.watch.uri, "wanted": server.watch.wanted}
            calls += [(tool, arguments, "") for tool, arguments in server.watch.calls]
        if self.kind == "resume":
            plan["cut"] = True
            calls = [server.slow]
        plan["calls"] = [{"tool": tool, "arguments": arguments} for tool, arguments, _ in calls]
        return plan, [expected for _, _, expected in calls]

    def run(self, server, told, scratch):
        """What was wrong, or None."""
        plan, expected = self.plan(server, told)
        report = CLIENTS[self.client][0](plan, scratch)
        return judge(report, server, plan, expected)


def judge(report, server, plan, expected):
    """What is wrong with a client's report, or None."""
    if not report["ok"]:
        return f"status {report['status']}: {report['error']}"
    if plan["transport"] == "http" and report["protocol"] != PROTOCOL[plan["era"]]:
        return f"negotiated {report['protocol']}, wanted {PROTOCOL[plan['era']]}"
    if missing := server.tools - set(report["tools"]):
        return f"tools not listed: {sorted(missing)}; got {report['tools']}"
    for call, wanted, text in zip(plan["calls"], expected, report["texts"], strict=True):
        if wanted not in text:
            return f"wanted {wanted!r} in the answer of {call['tool']}, got {text[:300]!r}"
    if report["isError"]:
        return f"a tool failed: {report['texts']}"
    if missing := set(plan.get("watch", {}).get("wanted", ())) - set(report.get("heard", ())):
        return f"never heard of {sorted(missing)}; heard of {report['heard']}"
    if plan.get("cut") and not report.get("resumed"):
        return "the answer came, but the client never resumed its stream: nothing was tested"
    return None


def judge_refusal(report):
    if report["ok"]:
        return "was let in"
    return None if report["status"] == 401 else f"was refused, but with {report['status']}, not 401: {report['error']}"


def columns(clients):
    return [(name, era) for name in clients for era in CLIENTS[name][1]]


def cells(kind, title, clients):
    """The cells of one row: every client and era, but for what a client cannot do, which `absent` names."""
    eras = ("legacy",) if kind in ("sse", "resume") else ("legacy", "modern")
    return [Cell(kind, name, era, title) for name, era in columns(clients) if (name, kind) not in CANNOT and era in eras]


def absent(kind, clients):
    return [f"{name} ({CANNOT[name, kind]})" for name in clients if (name, kind) in CANNOT]


def refusals(server, told, clients):
    """For each client no token and a wrong one: (label, function that runs the cell and says what was wrong)."""
    call = {"tool": server.tool, "arguments": server.arguments}
    for name, era in columns(clients):
        for kind, token in (("no token", None), ("wrong token", "not-a-token")):
            plan = {"url": told["url"], "token": token, "era": era, "transport": "http", "calls": [call]}
            yield f"{name} {era} {kind}", lambda scratch, n=name, p=plan: judge_refusal(CLIENTS[n][0](p, scratch))


class Tally:
    """What passed and what failed, printed row by row."""

    def __init__(self):
        self.passed = self.failed = 0
        self.wrong = []

    def row(self, title, todo, scratch, pool, not_yet=()):
        """Runs the cells of one host in `pool`, or one after another without one; prints them as one row, then what was wrong. `not_yet`
        says why which labels must fail."""
        if pool:
            running = [(label, pool.submit(guarded, cell, scratch)) for label, cell in todo]
            wrong = {label: future.result() for label, future in running}
        else:
            wrong = {label: guarded(cell, scratch) for label, cell in todo}
        marks, words = [], []
        for label, text in wrong.items():
            awaited = dict(not_yet).get(label)
            good = (text is None) == (awaited is None)
            self.passed, self.failed = self.passed + good, self.failed + (not good)
            marks.append(f"{'FAIL' if not good else 'ok' if text is None else 'not yet':<{len(label)}}")
            if not good:
                words.append(f"    {label}: {text or 'works: take it out of NOT_YET'}")
                self.wrong.append(f"{title}: {words[-1].strip()}")
            elif awaited:
                words.append(f"    {label}, not yet: {awaited}")
        print(f"{title:<32} {' '.join(marks) if len(marks) < 12 else f'{len(marks)} cells'}")
        for line in words:
            print(line)
        sys.stdout.flush()

    def broken(self, title, why):
        print(f"{title}: {why}", flush=True)
        self.failed += 1
        self.wrong.append(f"{title}: {why}")


def guarded(cell, scratch):
    """A cell that breaks is a failed cell: the others still run."""
    try:
        return cell(scratch)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def kinds_of(server, options):
    """The rows of a server."""
    kinds = ["call"]
    kinds += ["ask"] if server.asks else []
    kinds += ["watch"] if server.watch else []
    kinds += ["resume"] if server.slow else []
    kinds += ["sse"] if server.over_sse else []
    return [kind for kind in kinds if not options.kind or kind in options.kind]


def matrix(options, scratch, pool):
    servers = {**published(scratch), **built(), **ours()}
    servers |= remotes(servers["everything"])
    clients, chosen = options.client or list(CLIENTS), options.server or list(servers)
    tally = Tally()
    print(f"{'':<32} " + " ".join(f"{name} {era}" for name, era in columns(clients)))
    for name in chosen:
        for door in ("token", "open"):
            try:
                in_front_of(name, servers[name], door, name == chosen[0], clients, options, tally, scratch, pool)
            except host.Broken as broken:
                tally.broken(f"{name}, {door}", broken)
    return tally


def in_front_of(name, server, door, with_refusals, clients, options, tally, scratch, pool):
    """Everything in front of one host."""
    with behind_staithe(name, server, door, scratch) as told:
        for kind in kinds_of(server, options):
            title = f"{name}, {door}" + ("" if kind == "call" else f", {kind}")
            row = cells(kind, title, clients)
            todo = [(cell.column, functools.partial(cell.run, server, told)) for cell in row]
            # A legacy server's question does not say which call it belongs to, and all clients here are one principal with one process.
            alone = server.speaks == "legacy" and kind in ("ask", "sse")
            tally.row(title, todo, scratch, None if alone else pool, {cell.column: cell.not_yet(server) for cell in row})
            if names := absent(kind, clients):
                print(f"    cannot: {'; '.join(names)}")
        if with_refusals and door == "token" and (not options.kind or "refuse" in options.kind):
            tally.row("refused without token", list(refusals(server, told, clients)), scratch, pool)
        if strays := host.sweep():
            raise host.Broken(f"a client left processes behind: {strays}")


@contextlib.contextmanager
def behind_staithe(name, server, door, scratch):
    state = pathlib.Path(tempfile.mkdtemp(prefix="state-", dir=scratch))
    log = f"interop-{name}-{door}"
    if not server.remote:
        with host.hosted(server.command, log, door == "open", state, server.options, cwd=host.npm()) as told:
            yield told
        return
    kind, path = server.remote
    port = host.free_port()
    program = host.Program(server.command, f"{log}-server", env={**os.environ, "PORT": str(port)})
    try:
        host.wait_for_port(port, program)
        entry = {"type": kind, "url": f"http://127.0.0.1:{port}{path}"}
        with host.served({"hosted": entry}, log, door == "open", state) as told:
            yield told["hosted"]
    finally:
        program.end()


def direct(options, scratch, pool):
    server = Server([], {"echo"}, "echo", {"message": ECHO}, f"Echo: {ECHO}")
    tally, told = Tally(), {"url": options.direct, "token": None}
    row = cells("call", "direct", options.client or list(CLIENTS))
    tally.row("direct", [(cell.column, functools.partial(cell.run, server, told)) for cell in row], scratch, pool)
    return tally


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", action="append", help="only this server; may be repeated")
    parser.add_argument("--client", action="append", choices=sorted(CLIENTS), help="only this client; may be repeated")
    kinds = ["call", "ask", "watch", "resume", "sse", "refuse"]
    parser.add_argument("--kind", action="append", choices=kinds, help="only this kind of cell; may be repeated")
    parser.add_argument("--jobs", type=int, default=min(4, (os.cpu_count() or 1) + 1), help="clients at once")
    parser.add_argument("--direct", metavar="URL", help="no staithe: the clients straight against this address")
    options = parser.parse_args()
    host.adopt_orphans()
    if "rmcp" in (options.client or CLIENTS):
        rmcp_binary()  # before the first cell, so that its build is in nobody's time limit
    with tempfile.TemporaryDirectory(prefix="staithe-interop-") as folder, contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(options.jobs))
        work = direct if options.direct else matrix
        tally = work(options, pathlib.Path(folder).resolve(), pool)
    host.count("interop", tally.passed, tally.failed, tally.wrong)
    return 0 if tally.passed and not tally.failed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except host.Broken as broken:
        sys.exit(f"interop: {broken}")
