//! Which witnesses must have cosigned, and what may be said of a log that they cosigned: "tamper-proof" only with a quorum,
//! "tamper-evident" without.

use super::files;
use crate::fault;
use crate::render;
use ledger::policy::{MAX_POLICY, PolicyRefusal};
use ledger::{Checkpoint, LogKeys, Policy, Verifier};
use model::Problem;
use serde_json::{Value, json};
use std::path::Path;

/// Reads a policy for the log that has these keys.
pub(crate) fn read(path: &Path, keys: &LogKeys) -> Result<Policy, Problem> {
    let hint = "a policy is written as C2SP tlog-policy says: witness, group and quorum lines";
    let wrong = |why: &dyn std::fmt::Display| fault::usage(format!("{}: {why}", path.display()), hint);
    let bytes = files::read(path, MAX_POLICY)?.ok_or_else(|| wrong(&"the policy is longer than 1 MiB"))?;
    let policy = Policy::parse(&bytes).map_err(|error| wrong(&error))?;
    let own = |public: &[u8]| keys.verifiers().any(|key| key.public() == public);
    if policy.witnesses().iter().any(|witness| own(witness.key.public())) {
        return Err(wrong(&"a key of the log itself stands there as a witness"));
    }
    Ok(policy)
}

/// A checkpoint that a quorum of witnesses cosigned.
#[derive(Clone, Debug)]
pub(super) struct Witnessed {
    /// Entries that it covers.
    size: u64,
    /// Who cosigned, by the names that the policy has, and when, seconds since 1970.
    by: Vec<(String, u64)>,
}

/// What witnesses have to do with what was verified.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// Nobody was asked for: no policy, or one that needs nobody.
    Alone,
    /// Nobody was asked for, because it is not known who is to be.
    Unread,
    /// Those that the host asks have not cosigned, or too few of them.
    Lacking,
    /// A quorum cosigned.
    Quorum(Witnessed),
}

/// Looks for the largest of these checkpoints, whose log's signatures were verified, that a quorum cosigned. A wrong
/// cosignature of a known witness on any of them refuses all.
pub(super) fn standing(policy: Option<&Policy>, checkpoints: &[&Checkpoint]) -> Result<Standing, PolicyRefusal> {
    let Some(policy) = policy else { return Ok(Standing::Alone) };
    let mut best: Option<Witnessed> = None;
    for checkpoint in checkpoints {
        let verified = match policy.cosigned(checkpoint) {
            Err(PolicyRefusal::Quorum) => continue,
            other => other?,
        };
        let name =
            |key: &Verifier| policy.witnesses().iter().find(|witness| witness.key == *key).map(|witness| &witness.name);
        let named = verified.iter().filter_map(|one| Some((name(one.key)?, one.time.filter(|time| *time > 0)?)));
        let by = named.map(|(name, time)| (String::from_utf8_lossy(name).into_owned(), time)).collect();
        if best.as_ref().is_none_or(|best| best.size < checkpoint.size()) {
            best = Some(Witnessed { size: checkpoint.size(), by });
        }
    }
    match best {
        None => Err(PolicyRefusal::Quorum),
        Some(_) if !policy.needs_witnesses() => Ok(Standing::Alone),
        Some(best) => Ok(Standing::Quorum(best)),
    }
}

impl Standing {
    /// The word that is true of a log whose checkpoint has so many entries.
    pub(super) fn word(&self, entries: u64) -> &'static str {
        if self.covers().is_some_and(|covered| covered >= entries) { "tamper-proof" } else { "tamper-evident" }
    }

    /// How many entries a quorum cosigned.
    pub(super) fn covers(&self) -> Option<u64> {
        match self {
            Self::Alone | Self::Unread | Self::Lacking => None,
            Self::Quorum(witnessed) => Some(witnessed.size),
        }
    }

    /// What the word means here.
    fn meaning(&self, entries: u64) -> String {
        let evident = "tamper-evident: a change is seen by whoever holds an earlier checkpoint, but whoever has the log's \
                       secret keys could have written another log in its place";
        let Self::Quorum(Witnessed { size, .. }) = self else { return evident.to_owned() };
        let proof = format!(
            "tamper-proof, the first {size} entries: nobody, not even who has the log's secret keys, can change or remove \
             one of them unless witnesses that make a quorum take part"
        );
        if *size >= entries { proof } else { format!("{proof}.\nThe others are {evident}") }
    }

    /// The lines of a report.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let (size, by) = match self {
            Self::Alone => return vec![("witnesses", "none asked for".to_owned())],
            Self::Unread => {
                return vec![("witnesses", "not known: what the host is configured with cannot be read".to_owned())];
            }
            Self::Lacking => {
                let lacking = "no quorum of those that this host asks cosigned a checkpoint that is here";
                return vec![("witnesses", lacking.to_owned())];
            }
            Self::Quorum(Witnessed { size, by }) => (size, by),
        };
        let by: Vec<String> =
            by.iter().map(|(name, time)| format!("{} ({})", render::clean(name), at(*time))).collect();
        vec![("witnesses", format!("a quorum cosigned the first {size}: {}", by.join(", ")))]
    }

    /// Which of them it is, for programs.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Alone => "not_asked_for",
            Self::Unread => "not_known",
            Self::Lacking => "lacking",
            Self::Quorum(_) => "quorum",
        }
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        let Self::Quorum(Witnessed { size, by }) = self else { return Value::Null };
        let by: Vec<Value> = by.iter().map(|(name, time)| json!({"name": name, "time": at(*time)})).collect();
        json!({"entries": size, "cosigned": by})
    }
}

/// Seconds since 1970 as people read them.
pub(super) fn at(seconds: u64) -> String {
    stdx::clock::rfc3339(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000)).replace(".000Z", "Z")
}

/// What no checkpoint can show: that it is the last.
pub(super) fn later(signed: u64) -> String {
    format!(
        "what came after {}, when the checkpoint was signed: an older copy of a log looks like this one",
        at(signed)
    )
}

/// A report for people: what holds, what it means for a checkpoint of so many entries, and what nobody looked at.
pub(super) fn report(
    title: &str,
    lines: &[(&str, String)],
    (standing, entries): (&Standing, u64),
    left: &[String],
) -> String {
    let mut out = format!("{}\n\n", render::clean(title));
    for (name, value) in lines {
        out.push_str(&format!("  {name:<11} {}\n", render::clean(value)));
    }
    out.push_str(&format!("\n{}.\n\nnot verified:\n", standing.meaning(entries)));
    left.iter().for_each(|line| out.push_str(&format!("  - {}\n", render::clean(line))));
    out
}
