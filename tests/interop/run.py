#!/usr/bin/env python3
"""Published MCP servers behind staithe, called by the published clients, in both eras and under both auth settings.

usage: run.py [--server NAME]… [--client NAME]… [--jobs N] [--direct URL]

Each cell is one client program that lists the tools and calls one, whose answer is checked. Where a token is needed, each client is also
run with no token and with a wrong one in front of the first server, and must be refused with 401. `--direct` needs no staithe: it runs the clients straight against
the Streamable HTTP address of a server-everything, to show that a failure is not theirs.
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


@dataclasses.dataclass(frozen=True)
class Server:
    """A server's command line, and one call whose answer is known."""

    command: list
    tools: set
    tool: str
    arguments: dict
    expected: str

    def for_cell(self, cell):
        """The same server with arguments and an answer that no other cell has."""
        mine = f"{CANARY}-{cell.replace(' ', '-')}"
        arguments = {name: value.replace(ECHO, mine) for name, value in self.arguments.items()}
        return dataclasses.replace(self, arguments=arguments, expected=self.expected.replace(ECHO, mine))


def published(scratch):
    """The servers that npm and PyPI offer. `scratch` holds the files that they are allowed to see."""
    modules = host.npm() / "node_modules" / "@modelcontextprotocol"
    scripts = pathlib.Path(host.python()).parent
    folder, repository = canary_folder(scratch), canary_repository(scratch)
    return {
        "everything": Server(
            [host.node(), modules / "server-everything/dist/index.js"],
            {"echo", "get-sum"}, "echo", {"message": ECHO}, f"Echo: {ECHO}",
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
    command = ["cargo", "test", "--release", "--quiet", "--package", "staithe", "--test", "rmcp_client", "--no-run", "--message-format", "json"]
    built = subprocess.run(command, cwd=host.ROOT, stdout=subprocess.PIPE, text=True, check=True)
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "rmcp_client" and message.get("executable"):
            return message["executable"]
    raise host.Broken("cargo built no rmcp_client test program")


def inspector(plan, scratch):
    """The Inspector's command line does one method per run, so a cell is two runs. It keeps files in its home, hence a home per cell."""
    home = tempfile.mkdtemp(dir=scratch)
    launcher = host.npm() / "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
    command = [host.node(), launcher, "--cli", plan["url"], "--transport", "http", "--format", "json", "--quiet"]
    command += ["--stored-auth-only", "--protocol-era", plan["era"]]
    if plan["token"]:
        command += ["--header", f"Authorization: Bearer {plan['token']}"]
    call = ["--tool-name", plan["tool"], "--tool-args-json", json.dumps(plan["arguments"])]
    answers = []
    for method in (["initialize"], ["tools/list"], ["tools/call", *call]):
        code, out, err = host.finished([*command, "--method", *method], CELL_SECONDS, env={**os.environ, "HOME": home})
        if code != 0:
            # Its exit code 3 with `auth_required` is how it says 401.
            refused = code == 3 and '"auth_required"' in err
            return {"ok": False, "status": 401 if refused else None, "error": f"{method[0]}: exit {code}: {(err or out)[-600:]}"}
        answers.append(json.loads(out)["result"])
    words = [part["text"] for part in answers[2]["content"] if part["type"] == "text"]
    return {
        "ok": True,
        "protocol": answers[0].get("protocolVersion"),
        "tools": [tool["name"] for tool in answers[1]["tools"]],
        "text": "\n".join(words),
        "isError": bool(answers[2].get("isError")),
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

def judge(report, server, era):
    """What is wrong with a client's report, or None."""
    if not report["ok"]:
        return f"status {report['status']}: {report['error']}"
    if report["protocol"] != PROTOCOL[era]:
        return f"negotiated {report['protocol']}, wanted {PROTOCOL[era]}"
    if missing := server.tools - set(report["tools"]):
        return f"tools not listed: {sorted(missing)}; got {report['tools']}"
    if report["isError"] or server.expected not in report["text"]:
        return f"wanted {server.expected!r} in the answer, got isError={report['isError']} {report['text'][:300]!r}"
    return None


def judge_refusal(report):
    if report["ok"]:
        return "was let in"
    return None if report["status"] == 401 else f"was refused, but with {report['status']}, not 401: {report['error']}"


def columns(clients):
    return [(name, era) for name in clients for era in CLIENTS[name][1]]


def calls(server, told, clients):
    """(column, function that runs the cell and says what was wrong): each client lists and calls."""
    for name, era in columns(clients):
        mine = server.for_cell(f"{name} {era}")
        plan = {**told, "era": era, "tool": mine.tool, "arguments": mine.arguments}
        yield f"{name} {era}", lambda scratch, n=name, p=plan, m=mine: judge(CLIENTS[n][0](p, scratch), m, p["era"])


def refusals(server, told, clients):
    """The same for each client with no token and with a wrong one."""
    for name, era in columns(clients):
        for kind, token in (("no token", None), ("wrong token", "not-a-token")):
            plan = {"url": told["url"], "token": token, "era": era, "tool": server.tool, "arguments": server.arguments}
            yield f"{name} {era} {kind}", lambda scratch, n=name, p=plan: judge_refusal(CLIENTS[n][0](p, scratch))


def run_cells(title, todo, scratch, pool):
    """Runs the cells of one host at once and prints them as one row, then what was wrong: (passed, failed)."""
    running = [(label, pool.submit(guarded, cell, scratch)) for label, cell in todo]
    wrong = {label: future.result() for label, future in running}
    failed = {label: text for label, text in wrong.items() if text is not None}
    row = " ".join(f"{'FAIL' if label in failed else 'ok':<{len(label)}}" for label in wrong)
    print(f"{title:<24} {row if len(wrong) < 12 else f'{len(wrong) - len(failed)} of {len(wrong)}'}")
    for label, text in failed.items():
        print(f"    {label}: {text}")
    sys.stdout.flush()
    return len(wrong) - len(failed), len(failed)


def guarded(cell, scratch):
    """A cell that breaks is a failed cell: the others still run."""
    try:
        return cell(scratch)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def matrix(options, scratch, pool):
    servers = {**published(scratch), **ours()}
    clients, chosen = options.client or list(CLIENTS), options.server or list(servers)
    print(f"{'':<24} " + " ".join(f"{name} {era}" for name, era in columns(clients)))
    passed = failed = 0
    for name in chosen:
        for door in ("token", "open"):
            state = pathlib.Path(tempfile.mkdtemp(prefix="state-", dir=scratch))
            try:
                with host.hosted(servers[name].command, f"interop-{name}-{door}", door == "open", state) as told:
                    todo = [(f"{name}, {door}", calls(servers[name], told, clients))]
                    if name == chosen[0] and door == "token":
                        todo.append(("refused without token", refusals(servers[name], told, clients)))
                    for title, work in todo:
                        good, bad = run_cells(title, work, scratch, pool)
                        passed, failed = passed + good, failed + bad
                    if strays := host.sweep():
                        raise host.Broken(f"a client left processes behind: {strays}")
            except host.Broken as broken:
                print(f"{name}, {door}: {broken}", flush=True)
                failed += 1
    return passed, failed


def direct(options, scratch, pool):
    server = Server([], {"echo"}, "echo", {"message": ECHO}, ECHO)
    todo = calls(server, {"url": options.direct, "token": None}, options.client or list(CLIENTS))
    return run_cells("direct", todo, scratch, pool)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", action="append", help="only this server; may be repeated")
    parser.add_argument("--client", action="append", choices=sorted(CLIENTS), help="only this client; may be repeated")
    parser.add_argument("--jobs", type=int, default=min(4, (os.cpu_count() or 1) + 1), help="clients at once")
    parser.add_argument("--direct", metavar="URL", help="no staithe: the clients straight against this address")
    options = parser.parse_args()
    host.adopt_orphans()
    if "rmcp" in (options.client or CLIENTS):
        rmcp_binary()  # before the first cell, so that its build is in nobody's time limit
    with tempfile.TemporaryDirectory(prefix="staithe-interop-") as folder, contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(options.jobs))
        work = direct if options.direct else matrix
        passed, failed = work(options, pathlib.Path(folder).resolve(), pool)
    host.count("interop", passed, failed)
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except host.Broken as broken:
        sys.exit(f"interop: {broken}")
