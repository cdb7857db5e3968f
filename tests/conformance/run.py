#!/usr/bin/env python3
"""The MCP conformance suite against staithe in front of the test kit's `everything` server.

usage: run.py [--cell NAME]… [--list]

A cell is a protocol revision that the suite speaks, an era that the hosted server speaks, and whether a token is asked for (the suite sends
none, so a small proxy adds it). A scenario that cannot pass yet stands, with its reason, in expected-failures-REVISION-FIXTURE.yml; the run
fails where another scenario fails, and where a listed one passes.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True  # the tree stays clean
sys.path.insert(0, str(HERE.parent))
import host  # noqa: E402

SUITE_SECONDS = 600
RESULTS = host.KIT / "conformance"
PASSED, EMPTY = "passed", "checked nothing"


# Scenarios that the suite runs and reports without scoring them, and that count here all the same.
ALSO = {
    "2025-11-25": ["server-session-lifecycle", "json-schema-2020-12"],
    "2026-07-28": ["json-schema-2020-12", "http-header-validation", "http-custom-header-server-validation"],
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of the suite."""

    name: str
    fixture: str
    auth: bool
    revision: str
    # Where the suite knows what the revision requires, that and what ALSO adds counts; else every scenario that applies to the revision.
    has_requirements: bool = True
    # One scenario that runs alone, the check of it that must have been made, and what stands in staithe.toml for it.
    alone: str | None = None
    check: str | None = None
    settings: str = ""

    @property
    def baseline(self):
        return HERE / f"expected-failures-{self.revision}-{self.fixture}.yml"


CELLS = [
    # The server speaks the suite's era.
    Cell("2025-11-25-legacy", "legacy", False, "2025-11-25"),
    Cell("2026-07-28-modern", "modern", False, "2026-07-28"),
    Cell("2025-11-25-dual", "dual", False, "2025-11-25"),
    Cell("2026-07-28-dual", "dual", False, "2026-07-28"),
    Cell("2025-11-25-legacy-auth", "legacy", True, "2025-11-25"),
    Cell("2026-07-28-modern-auth", "modern", True, "2026-07-28"),
    Cell("2025-06-18-legacy", "legacy", False, "2025-06-18", has_requirements=False),
    # staithe closes the stream of a call of half a second on purpose, and the client asks once for the rest.
    Cell(
        "2025-11-25-legacy-polling", "legacy", False, "2025-11-25", alone="server-sse-polling", check="server-sse-disconnect-resume",
        settings='limits.stream_after = "20 ms"\nlimits.poll_after = "300 ms"',
    ),
    # The server speaks the other era.
    Cell("2026-07-28-legacy", "legacy", False, "2026-07-28"),
    Cell("2025-11-25-modern", "modern", False, "2025-11-25"),
]


def run(cell):
    """Runs the suite once and says whether the run is good."""
    output = RESULTS / cell.name
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    server = [host.kit_binary("everything"), f"--{cell.fixture}"]
    with tempfile.TemporaryDirectory(prefix="staithe-conformance-") as state:
        if cell.alone:
            entry = {"command": server[0], "args": server[1:]}
            with host.served({"hosted": entry}, f"conformance-{cell.name}", True, state, cell.settings) as told:
                return single(cell, told["hosted"]["url"], output)
        with host.hosted(server, f"conformance-{cell.name}", not cell.auth, state) as told:
            if not cell.auth:
                return suite(cell, told["url"], output)
            base, path = re.fullmatch(r"http://([^/]+)(/.*)", told["url"]).groups()
            env = {**os.environ, "SHIM_TOKEN": told["token"]}
            with host.running([sys.executable, HERE / "shim.py", base], f"shim-{cell.name}", env=env) as shim:
                listening = shim.line(lambda line: line.startswith("listening "))
                return suite(cell, listening.split()[1] + path, output)


def single(cell, url, output):
    """One scenario, of which one check must have been made: scenarios that meet nothing to check pass otherwise."""
    command = [*program(), "server", "--url", url, "--scenario", cell.alone, "--spec-version", cell.revision, "-o", output]
    code, out, err = host.finished(command, SUITE_SECONDS, cwd=output)
    checks = results(output)[cell.alone]
    word = verdict(checks)
    if word == PASSED and not any(check["id"] == cell.check and check["status"] == "SUCCESS" for check in checks):
        word = f"{cell.check} was not checked"
    good = code == 0 and word == PASSED
    print(f"  {cell.name}: {cell.alone} {word}" if good else f"  {cell.name}: FAIL {cell.alone}: {word} (exit {code}) {err[-600:]}", flush=True)
    return good


def suite(cell, url, output):
    selection = ["--requirements", cell.revision] if cell.has_requirements else ["--suite", "all", "--spec-version", cell.revision]
    command = [*program(), "server", "--url", url, *selection, "-o", output, "--expected-failures", cell.baseline]
    code, out, err = host.finished(command, SUITE_SECONDS, cwd=output)
    text = re.sub(r"\x1b\[[0-9;]*m", "", out)
    (output / "output.txt").write_text(text + err)
    verdicts = {name: verdict(checks) for name, checks in results(output).items()}
    wanted = scored(cell)
    counted = {name: verdicts.get(name, "did not run") for name in wanted}
    others = {name: word for name, word in verdicts.items() if name not in wanted}
    stale = names(text, r"^Stale baseline entries .*\n((?:  ✓ .*\n?)+)")
    unexpected = names(text, r"^Unexpected failures \(not in baseline\):\n((?:  ✗ .*\n?)+)")
    unexpected += [name for name, word in counted.items() if word in (EMPTY, "did not run") or (name in also(cell) and word != PASSED)]
    good = code == 0 and not unexpected and not stale
    report(cell, counted, unexpected, stale, others)
    if code != 0 and not unexpected and not stale:
        print(f"    FAIL the suite {'took too long' if code is None else f'ended with {code}'}: {(err or text)[-600:]}")
    if not good:
        print(f"    everything that the suite said is in {output}")
    return good


def scored(cell):
    """The names of the scenarios that count."""
    which = ["--requirements", cell.revision] if cell.has_requirements else ["--server", "--spec-version", cell.revision]
    code, out, err = host.finished([*program(), "list", *which], SUITE_SECONDS)
    found = names(out, r"^Server scenarios .*\n((?:  - .*\n?)+)")
    if code != 0 or len(found) < 20:
        raise host.Broken(f"the suite does not say which scenarios count (exit {code}, {len(found)} found): {(err or out)[-600:]}")
    return found + also(cell)


def also(cell):
    return ALSO.get(cell.revision, []) if cell.has_requirements else []


def program():
    return [host.node(), host.npm() / "node_modules/@modelcontextprotocol/conformance/dist/index.js"]


def names(text, pattern):
    """The entries of a list that the suite prints under a heading."""
    found = re.search(pattern, text, re.MULTILINE)
    return [line.split()[1] for line in found.group(1).splitlines()] if found else []


def results(output):
    """Scenario name to its checks, as the suite saved them."""
    found = collections.defaultdict(list)
    for path in sorted(output.glob("server-*/checks.json")):
        name = re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z", path.parent.name).group(1)
        found[name] += json.loads(path.read_text())
    return found


def verdict(checks):
    """`passed`, or the first thing that was wrong. A warning is a failure, as it is for the suite once it is given a baseline."""
    for check in checks:
        if check["status"] in ("FAILURE", "WARNING"):
            return f"{check['id']}: {check.get('errorMessage') or check['status']}"
    return PASSED if any(check["status"] == "SUCCESS" for check in checks) else EMPTY


def report(cell, counted, unexpected, stale, others):
    failed = sorted(name for name, word in counted.items() if word != PASSED)
    print(f"  {cell.name}: {len(counted) - len(failed)} passed, {len(failed)} failed")
    blamed = {entry.partition(":")[0] for entry in unexpected}
    for name in failed:
        print(f"    {'FAIL' if name in blamed else 'expected'} {name}: {counted[name][:300]}")
    for entry in unexpected:
        if ":" in entry:
            print(f"    FAIL {entry}")
    for entry in stale:
        print(f"    FAIL {entry} passes: take it out of {cell.baseline.name}")
    for name, word in sorted(others.items()):
        print(f"    uncounted {name}: {word[:200]}")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", action="append", choices=[cell.name for cell in CELLS], help="only this cell; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the names of the cells")
    options = parser.parse_args()
    if options.list:
        print("\n".join(cell.name for cell in CELLS))
        return 0
    host.adopt_orphans()
    good, wrong = 0, []
    for cell in CELLS:
        if options.cell and cell.name not in options.cell:
            continue
        why = "see its lines above"
        try:
            fine = run(cell)
        except host.Broken as broken:
            print(f"  FAIL {cell.name}: {broken}", flush=True)
            fine, why = False, str(broken)
        good += fine
        wrong += [] if fine else [f"{cell.name}: {why}"]
    host.count("conformance (runs of the suite)", good, len(wrong), wrong)
    return 0 if good and not wrong else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except host.Broken as broken:
        sys.exit(f"conformance: {broken}")
