//! What survives what: the page that operators read says what tests show, and nothing else.

use std::path::{Path, PathBuf};

/// A row of the page.
struct Row {
    /// Its first cell.
    event: &'static str,
    /// What the cells about sessions and about processes begin with.
    sessions: &'static str,
    processes: &'static str,
    /// The tests that show it.
    shown_by: &'static [&'static str],
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { event: "a hosted process dies, or is found to hang", sessions: "stay", processes: "a new one",
        shown_by: &["a_process_that_dies_takes_its_calls_with_it_and_no_session", "whatever_a_server_does_has_a_name_and_leaves_nothing",
            "a_server_that_hangs_is_replaced_within_twice_the_time_of_its_call"] },
    Row { event: "`staithe restart SERVER`", sessions: "stay", processes: "replaced",
        shown_by: &["a_restart_lets_calls_finish_in_their_time_and_keeps_sessions"] },
    Row { event: "`staithe stop`, later `start`", sessions: "stay", processes: "ended",
        shown_by: &["a_stop_lets_calls_finish_in_their_time_and_a_start_finds_the_sessions"] },
    Row { event: "SIGTERM, Ctrl-C to staithe, its terminal closes (SIGHUP, unless under `nohup`)", sessions: "stay", processes: "ended",
        shown_by: &["sigterm_under_load_loses_no_call_that_ends_in_time", "sigterm_lets_a_call_finish_and_leaves_nothing",
            "a_call_that_outlasts_the_drain_ends_and_its_session_stays", "a_terminal_that_closes_leaves_no_process_behind"] },
    Row { event: "a second SIGTERM or Ctrl-C", sessions: "stay", processes: "ended at once",
        shown_by: &["a_second_sigterm_ends_all_at_once_and_sessions_stay"] },
    Row { event: "SIGTERM with `serve --leave-servers`", sessions: "stay", processes: "live on",
        shown_by: &["servers_that_are_left_lose_no_call_under_load", "a_call_that_outlasts_the_drain_is_answered_by_the_next_daemon",
            "a_second_sigterm_leaves_the_servers_that_are_to_stay"] },
    Row { event: "`staithe upgrade`", sessions: "stay", processes: "live on",
        shown_by: &["ten_thousand_calls_and_no_failure_while_daemons_follow_each_other"] },
    Row { event: "an upgrade whose new daemon does not come to serve", sessions: "stay", processes: "live on",
        shown_by: &["nothing_runs_twice_and_no_answer_is_lost_when_the_new_daemon_dies_before_it_serves",
            "what_the_new_daemon_had_started_is_ended_when_it_does_not_take_over", "operators_find_the_daemon_that_took_everything_back"] },
    Row { event: "the daemon is killed while one that it replaced still has calls", sessions: "stay", processes: "live on",
        shown_by: &["the_end_of_the_new_daemon_ends_no_server"] },
    Row { event: "the daemon is killed (`kill -9`, a crash)", sessions: "stay", processes: "live on",
        shown_by: &["two_hundred_kills_under_load_lose_nothing", "a_call_that_outlives_the_daemon_is_answered_on_its_stream",
            "a_call_whose_process_died_with_the_daemon_ends_as_unknown"] },
    Row { event: "the keeper is killed", sessions: "stay", processes: "ended",
        shown_by: &["sessions_outlive_the_keeper_under_load", "a_probe_that_ends_with_the_keeper_says_nothing_about_the_server"] },
    Row { event: "daemon and keeper are killed together", sessions: "stay", processes: "ended",
        shown_by: &["after_all_was_killed_leftovers_are_gone_and_sessions_valid"] },
    Row { event: "reboot, power loss", sessions: "stay", processes: "gone",
        shown_by: &["a_machine_that_starts_anew_finds_all_but_processes_and_calls"] },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The cells of the table under `heading`, without its two first lines.
fn table(heading: &str) -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let lines = page.lines().skip_while(|line| *line != heading);
    let lines = lines.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    lines.skip(2).map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Every function of the sources that is a test.
fn tests(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            tests(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut marked = false;
            for line in text.lines().map(str::trim_start) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    marked = true;
                } else if let Some(name) = line.trim_start_matches("async ").strip_prefix("fn ") {
                    found.extend(marked.then(|| name.split('(').next().unwrap_or_default().to_owned()));
                    marked = false;
                }
            }
        }
    }
}

#[test]
fn the_page_says_what_tests_show() {
    let page = table("## What survives what");
    let events: Vec<&str> = page.iter().map(|cells| &*cells[0]).collect();
    let known: Vec<&str> = ROWS.iter().map(|row| row.event).collect();
    assert_eq!(events, known, "docs/operations.md and this file name other rows");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("crates")).unwrap().map(Result::unwrap) {
        for part in ["src", "tests"].map(|part| entry.path().join(part)) {
            if part.is_dir() {
                tests(&part, &mut found);
            }
        }
    }
    for (row, cells) in ROWS.iter().zip(&page) {
        assert_eq!(cells.len(), 5, "{cells:?}");
        assert!(cells[2].starts_with(row.sessions), "{}: sessions {}", row.event, cells[2]);
        assert!(cells[3].starts_with(row.processes), "{}: processes {}", row.event, cells[3]);
        assert!(!row.shown_by.is_empty(), "nothing shows {}", row.event);
        for name in row.shown_by {
            assert!(found.iter().any(|test| test == name), "{}: there is no test {name}", row.event);
        }
    }
}
