//! The binary `staithe`: words on the command line in, an exit code out.

mod addresses;
mod assemble;
mod audit;
mod book;
mod call;
mod check;
mod cli;
mod config;
mod demo;
mod demo_server;
mod export;
mod fault;
mod import;
mod install;
mod keys;
mod lifecycle;
mod listeners;
mod lives;
mod metrics;
mod naming;
mod output;
mod remote;
mod render;
mod run;
mod serve;
mod state;
mod steps;
mod systemd;
mod telemetry;
mod timing;
mod units;
mod upgrade;
mod watch;
mod witnesses;

use crate::cli::{AuditVerb, Cli, Verb};
use crate::output::Output;
use clap::Parser;
use model::Problem;
use std::io::Write;
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};

/// Calls allocate on one thread and free on another; the C library's allocator makes such threads wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before any runtime starts: the demo's server is a plain child process, and the keeper stays small.
    match std::env::args_os().nth(1) {
        Some(word) if word == demo::SERVER_VERB => return demo_server::main(),
        Some(word) if word == keeper::VERB => return keeper::main(std::env::args_os().skip(2)),
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with 0, mistakes to stderr with 2.
            if error.use_stderr() {
                explain(&error);
            } else {
                drop(error.print());
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let output = Output::new(cli.json);
    match dispatch(cli, output) {
        Ok(code) => code,
        Err(problem) => output.problem(&problem),
    }
}

/// What is wrong with the words, and what may have been meant. A token among them is not shown.
fn explain(error: &clap::Error) {
    let plain = error.render().to_string();
    let hidden = control::hide_tokens(&plain);
    if hidden == plain {
        drop(error.print());
    } else {
        drop(std::io::stderr().write_all(hidden.as_bytes()));
    }
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(hint) = cli::next_step(error.kind(), &words) {
        drop(writeln!(std::io::stderr(), "  next: {hint}"));
    }
}

fn dispatch(cli: Cli, output: Output) -> Result<ExitCode, Problem> {
    let state_dir = cli.state_dir.as_deref();
    match cli.command {
        Verb::Demo(args) => hosting(async { demo::demo(&args, output).await }),
        Verb::Run(args) => hosting(async { run::run(args, state_dir, output).await }),
        Verb::Serve(args) => hosting(async { serve::serve(&args, state_dir, output).await }),
        Verb::Check(args) => check::check(&args, state_dir, output),
        Verb::InstallService(args) => install::install(&args, state_dir, output),
        Verb::Audit(AuditVerb::Witness(args)) => hosting(async { audit::witness(&args, output).await }),
        Verb::Audit(AuditVerb::Verify(args)) => audit::verify(&args, state_dir, output),
        Verb::Audit(AuditVerb::Check(args)) => audit::check(&args, output),
        Verb::Audit(AuditVerb::Tail(args)) => audit::tail(&args, state_dir, output),
        Verb::Audit(AuditVerb::Show(args)) => asking(async { audit::show(&args, state_dir, output).await }),
        Verb::Audit(AuditVerb::Prove(args)) => audit::prove(&args, state_dir, output),
        Verb::Audit(AuditVerb::Search(args)) => asking(async { audit::search(&args, state_dir, output).await }),
        Verb::Audit(AuditVerb::Export(args)) => asking(async { audit::export(&args, state_dir, output).await }),
        Verb::Audit(AuditVerb::Erase(args)) => asking(async { audit::erase(&args, state_dir, output).await }),
        Verb::Audit(AuditVerb::Prune(args)) => asking(async { audit::prune(&args, state_dir, output).await }),
        Verb::Audit(AuditVerb::Rebuild) => audit::rebuild(state_dir, output),
        Verb::Audit(AuditVerb::RotateKeys(args)) => audit::rotate_keys(state_dir, args.config.as_deref(), output),
        Verb::Audit(AuditVerb::Recover(args)) => audit::recover(&args, state_dir, output),
        Verb::Import(args) => asking(async { import::import(&args, state_dir, output).await }),
        Verb::Call(args) => asking(async { call::call(&args, state_dir, output).await }),
        other => asking(async { remote::command(other, state_dir, output).await }),
    }
}

/// Runs a host: one worker per core, at least two, so that one busy task never stops the rest.
fn hosting(work: impl Future<Output = Result<ExitCode, Problem>>) -> Result<ExitCode, Problem> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = Builder::new_multi_thread().worker_threads(cores.max(2)).thread_name("staithe").enable_all().build();
    finish(runtime.map_err(fault::no_runtime)?, work)
}

/// Asks a host: one thread is enough.
fn asking(work: impl Future<Output = Result<ExitCode, Problem>>) -> Result<ExitCode, Problem> {
    finish(Builder::new_current_thread().enable_all().build().map_err(fault::no_runtime)?, work)
}

fn finish(runtime: Runtime, work: impl Future<Output = Result<ExitCode, Problem>>) -> Result<ExitCode, Problem> {
    let result = runtime.block_on(work);
    // What still runs was given its time: a task that hangs must not keep the process.
    runtime.shutdown_background();
    result
}
