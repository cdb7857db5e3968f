//! The project's own tools: `tidy` holds the house rules, `eras` prints a document, `bench` measures. Hidden commands are the processes that
//! `bench` starts, so that their CPU time is their own.

mod bench;
mod eras;
mod tidy;

use clap::{Parser, Subcommand};
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Tools for people who work on staithe")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check the house rules: import table, file shape, words, documents. Prints every violation.
    Tidy,
    /// Print docs/eras.md from the era matrix.
    Eras,
    /// Measure staithe beside the floor and, with --peers, beside its peers.
    Bench(bench::Options),
    /// Drive calls at one address and print what was measured.
    #[command(hide = true)]
    Load(bench::load::Options),
    /// Open legacy sessions one after the other and print what was measured.
    #[command(hide = true)]
    Sessions(bench::sessions::Options),
    /// Drive a stdio server over its pipes and print what was measured.
    #[command(hide = true)]
    Direct(bench::direct::Options),
    /// Serve a floor until stdin is closed.
    #[command(hide = true)]
    Floor(bench::floor::Options),
    /// A stdio server for the tests of the load generator, right or wrong on purpose.
    #[command(hide = true)]
    Fake(bench::fake::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Tidy => return report_tidy(),
        Task::Eras => return print_eras(),
        Task::Bench(options) => bench::run(&options),
        Task::Load(options) => bench::load::run(&options),
        Task::Sessions(options) => bench::sessions::run(&options),
        Task::Direct(options) => bench::direct::run(&options),
        Task::Floor(options) => bench::floor::run(&options),
        Task::Fake(options) => bench::fake::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(&stdx::chain::Chain(&error as &dyn Error).to_string());
            ExitCode::FAILURE
        }
    }
}

/// The checkout that this program was built from.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

fn print_eras() -> ExitCode {
    match eras::write(root()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(&stdx::chain::Chain(&error).to_string());
            ExitCode::FAILURE
        }
    }
}

/// Runs `tidy` over the checkout.
fn report_tidy() -> ExitCode {
    let violations = match tidy::check(root()) {
        Ok(violations) => violations,
        Err(error) => {
            say_error(&stdx::chain::Chain(&error).to_string());
            return ExitCode::FAILURE;
        }
    };
    for violation in &violations {
        say_error(&violation.to_string());
    }
    if violations.is_empty() {
        return ExitCode::SUCCESS;
    }
    say_error(&format!("{} violations of the house rules", violations.len()));
    ExitCode::FAILURE
}

fn say_error(text: &str) {
    // Nobody can be told that stderr is closed.
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}
