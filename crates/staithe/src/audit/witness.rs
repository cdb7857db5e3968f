//! `staithe audit witness`: cosigns checkpoints of logs (C2SP tlog-witness). It has a directory and no database.

mod book;
mod copies;
mod home;
mod listen;
mod trusted;

use self::book::Book;
use self::home::Home;
use crate::addresses;
use crate::cli::WitnessArgs;
use crate::config::LogFormat;
use crate::fault;
use crate::lifecycle::Signals;
use crate::output::Output;
use crate::render;
use crate::telemetry;
use model::Problem;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Cosigns until a signal.
pub(crate) async fn witness(args: &WitnessArgs, output: Output) -> Result<ExitCode, Problem> {
    telemetry::start("info", LogFormat::Text);
    let mut signals = Signals::listen()?;
    let logs = trusted::read(&args.log)?;
    let home = Home::open(&args.dir, &args.name)?;
    let listener = TcpListener::bind(args.listen).await;
    let tried = format!("listen on {}", args.listen);
    let listener = listener.map_err(|error| fault::because(&tried, &error, "give another address with --listen"))?;
    let address = listener.local_addr().map_err(|error| fault::because(&tried, &error, ""))?;
    let copies = copies::named(&args.copy, |origin| logs.get(origin)?.both().cloned())?;
    let book = Arc::new(Book::open(home, logs, copies)?);
    tell(&book, &addresses::base_url(address), output);
    let shutdown = CancellationToken::new();
    let serving = listen::serve(listener, book, shutdown.clone());
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        signal = signals.next() => {
            tracing::info!(signal, "stopping: requests may finish");
            shutdown.cancel();
            tokio::select! {
                () = &mut serving => {}
                signal = signals.next() => {
                    tracing::warn!(signal, "asked again: ending at once");
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A witness with all its keys, as a policy names it.
fn policy(vkeys: &[String], url: &str) -> String {
    let names: Vec<String> = (1..=vkeys.len()).map(|nth| format!("w-{nth}")).collect();
    let lines: String = names.iter().zip(vkeys).map(|(name, vkey)| format!("witness {name} {vkey} {url}\n")).collect();
    format!("{lines}group w all {}", names.join(" "))
}

/// The first line is what programs wait for.
fn tell(book: &Book, url: &str, output: Output) {
    let (vkeys, logs) = (book.vkeys(), book.known());
    if output.is_json() {
        let logs: Vec<_> =
            logs.iter().map(|(origin, hash, size)| json!({"origin": origin, "hash": hash, "size": size})).collect();
        output.json(&json!({"listening": {"witness": url}, "vkeys": vkeys, "logs": logs}));
        return;
    }
    let logs = logs.iter().map(|(origin, hash, size)| {
        let size =
            size.map_or_else(|| "nothing cosigned yet".to_owned(), |size| format!("cosigned up to {size} entries"));
        format!("log {}: {size}; {url}/{hash}/checkpoint\n", render::clean(origin))
    });
    let logs: String = logs.collect();
    output.text(&format!(
        "listening witness={url}\n{logs}lines for the policy of the log's host and of those who verify (the address as they reach it; give the witness a \
         name of your own for w):\n{}\n",
        policy(&vkeys, url)
    ));
}
