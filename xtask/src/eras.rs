//! `docs/eras.md`: the era matrix for people, printed from the table that the matrix test asserts, between prose that is
//! kept in `eras/page.md`.

use std::fmt::Write;
use std::path::Path;
use testkit::matrix::{Cell, Client, Era, Exception, Feature, Loss, Mode, Outcome, Refusal, Server, exception};

/// Where the page lies, from the root of the tree.
pub(crate) const PATH: &str = "docs/eras.md";
const PROSE: &str = include_str!("eras/page.md");

/// The four ways a call can go: who calls, and how the server is spoken to.
const LEGS: [(Era, Server); 4] = [
    (Era::Legacy, Server::Legacy),
    (Era::Modern, Server::Modern),
    (Era::Modern, Server::Legacy),
    (Era::Legacy, Server::Modern),
];

/// Writes the page.
pub(crate) fn write(root: &Path) -> Result<(), stdx::durable::DurableError> {
    stdx::durable::write_file(&root.join(PATH), page().as_bytes(), 0o644)
}

/// The page as it must be.
pub(crate) fn page() -> String {
    let mut notes = Vec::new();
    let table = table(&mut notes);
    PROSE.replace("{table}", table.trim_end()).replace("{notes}", said(&notes).trim_end())
}

/// A row for each feature, and the exceptions in the order in which the rows meet them.
fn table(notes: &mut Vec<&'static Exception>) -> String {
    let mut table = String::from(
        "| | legacy client, legacy server | modern client, modern server | modern client, legacy server | legacy client, modern server |\n|---|---|---|---|---|\n",
    );
    for feature in Feature::ALL {
        let cells = LEGS.map(|(client, server)| place(client, server, *feature, notes));
        // Writing to a string cannot fail.
        let _ = writeln!(table, "| {} | {} |", feature.title(), cells.join(" | "));
    }
    table
}

/// What stands in one place of the table: a word for all its cells, or for most of them, and the notes about others.
fn place(era: Era, server: Server, feature: Feature, notes: &mut Vec<&'static Exception>) -> String {
    let clients: Vec<Client> = Client::ALL.into_iter().filter(|client| client.era() == era).collect();
    let cells = clients.iter().flat_map(|client| {
        let client = *client;
        Mode::ALL.into_iter().map(move |mode| Cell { client, server, feature, mode })
    });
    let found: Vec<Option<&Exception>> = cells.map(|cell| exception(&cell)).collect();
    let mut numbers: Vec<String> = Vec::new();
    for exception in found.iter().flatten() {
        let known = notes.iter().position(|known| std::ptr::eq(*known, *exception));
        let number = known.unwrap_or_else(|| {
            notes.push(exception);
            notes.len() - 1
        });
        let number = (number + 1).to_string();
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    let word = word(&found);
    if numbers.is_empty() { word.to_owned() } else { format!("{word} ({})", numbers.join(", ")) }
}

/// The best that happens in these cells; the notes name the rest.
fn word(found: &[Option<&Exception>]) -> &'static str {
    let lossy = |exception: &&Exception| matches!(exception.outcome, Outcome::Lossy(_));
    if found.iter().any(Option::is_none) {
        "exact"
    } else if found.iter().flatten().any(lossy) {
        "lossy"
    } else {
        "refused"
    }
}

/// The notes, numbered as the table numbers them.
fn said(notes: &[&Exception]) -> String {
    let mut text = String::new();
    for (number, exception) in (1..).zip(notes) {
        let (place, what, why) = (place_of(exception), outcome(exception.outcome), exception.why);
        let _ = writeln!(text, "{number}. {place}: {what}. {}.", capital(why));
    }
    text
}

/// Which clients and modes; nothing is said where it is all of them.
fn place_of(exception: &Exception) -> String {
    let clients: Vec<&str> = exception.clients.iter().map(|client| client.revision()).collect();
    let modes: Vec<String> = exception.modes.iter().map(|mode| format!("`{mode}`")).collect();
    let clients = match exception.clients.len() {
        all if all == Client::ALL.len() => "All clients".to_owned(),
        _ => format!("Clients of {}", listed(&clients)),
    };
    match exception.modes.len() {
        all if all == Mode::ALL.len() => clients,
        1 => format!("{clients}, mode {}", modes[0]),
        _ => format!("{clients}, modes {}", listed(&modes.iter().map(String::as_str).collect::<Vec<_>>())),
    }
}

fn listed(words: &[&str]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => words.join(""),
    }
}

fn outcome(outcome: Outcome) -> String {
    match outcome {
        Outcome::Exact => "exact".to_owned(),
        Outcome::Lossy(loss) => format!("lossy: {}", Loss::words(loss)),
        Outcome::Refused(Refusal::Error(code, words)) => format!("refused with {code}, \"… {words} …\""),
        Outcome::Refused(Refusal::Tool(words)) => format!("the tool fails with \"… {words} …\""),
        Outcome::Refused(Refusal::Http(status, words)) => format!("refused with status {status}, \"… {words} …\""),
    }
}

fn capital(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{PROSE, listed, page};
    use testkit::matrix::{EXCEPTIONS, Feature};

    #[test]
    fn the_page_names_every_feature_and_every_exception() {
        let page = page();
        for feature in Feature::ALL {
            assert!(page.contains(&format!("\n| {} | ", feature.title())), "{feature:?}");
        }
        for number in 1..=EXCEPTIONS.len() {
            assert!(page.contains(&format!("\n{number}. ")), "{number}");
        }
        assert!(!page.contains('{') && PROSE.matches("{table}").count() == 1, "a mark was left in the page");
    }

    #[test]
    fn lists_read_like_english() {
        assert_eq!(listed(&["a", "b", "c"]), "a, b and c");
        assert_eq!(listed(&["a"]), "a");
    }
}
