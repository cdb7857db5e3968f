//! What cannot be undone is asked for twice.

use crate::fault;
use model::Problem;
use std::io::{self, IsTerminal, Write};

/// Goes on if the operator said so on the command line, or says so now.
pub(super) fn confirm(yes: bool, what: &str) -> Result<(), Problem> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(fault::usage(format!("{what} It cannot be undone"), "give the command again with --yes"));
    }
    let mut err = io::stderr().lock();
    let asked = write!(err, "{what} It cannot be undone. Go on? [yes/no] ").and_then(|()| err.flush());
    let mut answer = String::new();
    let answered = asked.and_then(|()| io::stdin().read_line(&mut answer));
    match answered {
        Ok(_) if matches!(answer.trim(), "yes" | "y") => Ok(()),
        _ => Err(fault::failed("nothing was done", "answer yes, or give --yes")),
    }
}
