"""Starts staithe (or another program that the tests talk to), waits until it is ready, and stops it without leaving anything behind.

Every process that the tests cause is found again: this process makes itself the reaper of all orphans below it, so a child that a
stopped staithe left alive becomes our child and is counted, killed by its id, and reported as a failure.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import queue
import signal
import socket
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
RELEASE = TARGET / "release"
KIT = TARGET / "tests"
LOGS = KIT / "logs"

READY_SECONDS = 60
STOP_SECONDS = 20


class Broken(Exception):
    """A program did not do what a test needs before it can begin, or did not go away when told to."""


def adopt_orphans():
    """Makes this process the reaper of every orphan below it (prctl PR_SET_CHILD_SUBREAPER)."""
    if ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0) != 0:
        raise Broken(f"prctl(PR_SET_CHILD_SUBREAPER) failed: {os.strerror(ctypes.get_errno())}")


def tool(variable, fallback):
    """A program or folder that ./test prepared: named by an environment variable, else where ./test puts it."""
    path = pathlib.Path(os.environ.get(variable) or fallback)
    if not path.exists():
        raise Broken(f"{path} is missing: run `./test tools` first, or set {variable}")
    return path


def node():
    """Node 22 or newer."""
    bundled = sorted((KIT / "node").glob("node_modules/node-linux-*/bin/node"))
    return str(tool("STAITHE_TEST_NODE", bundled[0] if bundled else "/usr/bin/node"))


def npm():
    """The folder whose node_modules holds the packages of tests/interop/package.json."""
    return tool("STAITHE_TEST_NPM", KIT / "npm")


def python():
    """The interpreter that has the packages of tests/interop/requirements.txt."""
    return str(tool("STAITHE_TEST_PYTHON", KIT / "venv" / "bin" / "python"))


def staithe_binary():
    return str(tool("STAITHE_TEST_BINARY", RELEASE / "staithe"))


def kit_binary(name):
    """A hosted server of crates/testkit."""
    path = RELEASE / name
    if not path.exists():
        raise Broken(f"{path} is missing: cargo build --release -p staithe-testkit --bins")
    return str(path)


# Process ids that this module started and has not waited for yet. Any other child of ours is an adopted orphan.
_ours = set()


class Program:
    """A long-running program with its stdout read line by line and its stderr in a file."""

    def __init__(self, command, log, env=None, cwd=None):
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log = LOGS / f"{log}.log"
        self.command = [str(part) for part in command]
        with open(self.log, "wb") as stderr:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, env=env, cwd=cwd, text=True
            )
        _ours.add(self.process.pid)
        self.lines = queue.Queue()
        self.seen = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def line(self, wanted, seconds=READY_SECONDS):
        """The first line of stdout for which `wanted` is true."""
        until = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                raise Broken(f"{self.command[0]} did not print what was awaited in {seconds} s; {self.words()}") from None
            if line is None:
                raise Broken(f"{self.command[0]} ended with {self.process.wait()} before it was ready; {self.words()}")
            self.seen.append(line)
            if wanted(line):
                return line

    def end(self):
        """Ends a program of somebody else's, however it takes that."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _ours.discard(self.process.pid)

    def words(self):
        """What it said so far: stdout, and the end of stderr."""
        errors = self.log.read_text(errors="replace").strip().splitlines()
        return f"stdout: {self.seen}; stderr ({self.log}): " + (" | ".join(errors[-6:]) or "empty")

    def stop(self, how=signal.SIGTERM):
        """Asks the program to end, waits, and says what was wrong with its end, or None."""
        wrong = []
        if self.process.poll() is not None:
            wrong.append(f"had already ended with {self.process.returncode}; {self.words()}")
        else:
            self.process.send_signal(how)
            try:
                code = self.process.wait(STOP_SECONDS)
                if code != 0:
                    wrong.append(f"ended with {code} after {how.name}; {self.words()}")
            except subprocess.TimeoutExpired:
                wrong.append(f"was still alive {STOP_SECONDS} s after {how.name}; {self.words()}")
                self.process.kill()
                self.process.wait()
        _ours.discard(self.process.pid)
        left = sweep()
        if left:
            wrong.append(f"left processes behind: {left}")
        return "; ".join(wrong) or None


@contextlib.contextmanager
def running(command, log, **settings):
    """A program for the length of a `with` block. A bad end is an error of the block, unless the block itself failed."""
    program = Program(command, log, **settings)
    try:
        yield program
    except BaseException:
        program.stop()
        raise
    wrong = program.stop()
    if wrong:
        raise Broken(f"{pathlib.Path(program.command[0]).name} {wrong}")


@contextlib.contextmanager
def hosted(server, log, open_door, state, options=(), cwd=None):
    """`staithe run` with `options` in front of the command line `server`. Yields what its ready line says."""
    options = [*(["--open"] if open_door else []), *options]
    command = [staithe_binary(), "--json", "--state-dir", state, "run", "--listen", "127.0.0.1:0", "--name", "hosted", *options, "--", *server]
    with running(command, log, cwd=cwd) as program:
        line = program.line(lambda text: text.startswith("{"))
        try:
            ready = json.loads(line)
            told = {"url": ready["server"]["url"], "token": ready.get("token"), "listening": ready["listening"]}
        except (ValueError, KeyError, TypeError) as error:
            raise Broken(f"the ready line is not as documented ({error!r}): {line}") from None
        if open_door == bool(told["token"]):
            raise Broken(f"a token must be printed exactly where one is needed: {line}")
        yield told


@contextlib.contextmanager
def served(servers, log, open_door, state, settings=""):
    """`staithe serve` with the lines `settings` in its configuration, in front of the `mcpServers` object `servers`. Yields by name what
    `hosted` yields."""
    state = pathlib.Path(state)
    names, config = state / "mcp.json", state / "staithe.toml"
    names.write_text(json.dumps({"mcpServers": servers}))
    lines = ['listen.public = "127.0.0.1:0"', 'listen.operator = "127.0.0.1:0"', f"auth.open = {str(open_door).lower()}", settings]
    config.write_text("\n".join(lines))
    command = [staithe_binary(), "--json", "--state-dir", state / "state"]
    asked([*command, "import", names])
    with running([*command, "serve", "--config", config], log) as program:
        listening = json.loads(program.line(lambda text: text.startswith("{")))["listening"]
        token = None if open_door else asked([*command, "token", "create", "--principal", "interop"])["token"]
        told = asked([*command, "servers"])
        yield {server["name"]: {"url": server["url"], "token": token, "listening": listening} for server in told}


def free_port():
    """A port of loopback that is free now, for a program that cannot choose one itself."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for_port(port, program):
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if program.process.poll() is not None:
            raise Broken(f"{program.command[0]} ended with {program.process.returncode}; {program.words()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise Broken(f"nobody listens on port {port} after {READY_SECONDS} s; {program.words()}")


def asked(command):
    """What an operator's command says, as JSON."""
    code, out, err = finished(command, READY_SECONDS)
    if code != 0:
        raise Broken(f"{' '.join(str(word) for word in command)} ended with {code}: {(err or out)[-600:]}")
    return json.loads(out)


def finished(command, seconds, env=None, cwd=None):
    """Runs a short program to its end: (exit code or None after `seconds`, stdout, stderr). A late one is killed with its process group."""
    process = subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=env, cwd=cwd, text=True, errors="replace", start_new_session=True,
    )
    _ours.add(process.pid)
    try:
        out, err = process.communicate(timeout=seconds)
        return process.returncode, out, err
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        return None, out, err
    finally:
        _ours.discard(process.pid)


def sweep():
    """Kills and names every adopted orphan, after a moment's patience for those that are just ending."""
    until = time.monotonic() + 1.0
    while (alive := _orphans()) and time.monotonic() < until:
        time.sleep(0.02)
    named = [f"{pid} {_command_of(pid)}" for pid in alive]
    for pid in alive:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return named


def _orphans():
    """Our living children that this module did not start. Dead ones are reaped on the way."""
    me = os.getpid()
    children = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit() and _parent_of(entry.name) == me]
    alive = []
    for pid in children:
        if pid in _ours:
            continue
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                alive.append(pid)
    return alive


def _parent_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return int(stat.read().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def _command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            return cmdline.read().replace(b"\0", b" ").decode(errors="replace").strip() or "(no command line)"
    except OSError:
        return "(gone)"


def count(part, passed, failed, wrong=()):
    """The end of every runner: what failed once more, since only the end of a long output is read, and the sums, also for ./test to add up."""
    for line in wrong:
        print(f"{part}, failed: {line}")
    print(f"{part}: {passed} passed, {failed} failed", flush=True)
    if tally := os.environ.get("STAITHE_TEST_TALLY"):
        with open(tally, "a", encoding="utf-8") as file:
            file.write(f"{passed} {failed}\n")
