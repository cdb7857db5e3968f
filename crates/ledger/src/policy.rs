//! Whom to believe, as C2SP tlog-policy writes it: known logs, known witnesses, and which of them must have cosigned a
//! checkpoint.

use crate::checkpoint::{Checkpoint, Head, HeadError, decimal};
use crate::key::{KeyError, Kind, Verifier};
use crate::note::{Note, Unverified, Verified};
use std::collections::HashMap;

/// Bytes of the longest policy.
pub const MAX_POLICY: usize = 1 << 20;
/// Logs, witnesses and groups that a policy may have, of each. The specification asks for 32.
pub const MAX_OF_EACH: usize = 256;

/// A log that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Its key, whose name is the log's origin.
    pub key: Verifier,
    /// Where it is reached, as the policy says it; opaque bytes.
    pub url: Option<Vec<u8>>,
}

/// A witness that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// What the policy calls it; opaque bytes.
    pub name: Vec<u8>,
    /// Its key.
    pub key: Verifier,
    /// Where it takes checkpoints, as the policy says it; opaque bytes.
    pub url: Option<Vec<u8>>,
}

/// What a name stands for: the place of a witness or of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Witness(usize),
    Group(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    threshold: usize,
    /// Only groups that stand before this one.
    members: Vec<Member>,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<Log>,
    witnesses: Vec<Witness>,
    groups: Vec<Group>,
    /// `None`: no cosignature is needed.
    quorum: Option<Member>,
}

/// A text is no policy. `line` counts from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// More than [`MAX_POLICY`] bytes.
    #[error("the policy is longer than 1 MiB")]
    TooLong,
    /// The last line does not end: something may have been cut off.
    #[error("the policy's last line has no line end")]
    Unended,
    /// There is no quorum line.
    #[error("the policy has no quorum line")]
    NoQuorum,
    /// A line is wrong.
    #[error("line {line} of the policy: {fault}")]
    Line {
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// What is wrong with a line of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A control character other than tab.
    #[error("it has a control character")]
    Control,
    /// The first word is none of log, witness, group, quorum.
    #[error("expected log, witness, group or quorum")]
    Word,
    /// There are too few or too many words.
    #[error("it has too few or too many words")]
    Words,
    /// The key is none.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The key is of a kind that does not do this work.
    #[error("a {0} key is of no use here")]
    Kind(Kind),
    /// The same public key stands in an earlier line.
    #[error("the same public key stands in an earlier line")]
    DuplicateKey,
    /// The name is defined already, or is `none`.
    #[error("the name is taken")]
    Taken,
    /// No earlier line defines the name.
    #[error("no earlier line defines the name")]
    Unknown,
    /// The name is a member of a group already.
    #[error("the name is a member of a group already")]
    MemberTwice,
    /// The threshold is not from 1 to the number of members.
    #[error("the threshold is not a number from 1 to the number of members")]
    Threshold,
    /// There is a quorum line already.
    #[error("there is a quorum line already")]
    QuorumTwice,
    /// There are more than [`MAX_OF_EACH`].
    #[error("there are more than 256")]
    TooMany,
}

/// A policy while it is read.
#[derive(Default)]
struct Reading {
    logs: Vec<Log>,
    witnesses: Vec<Witness>,
    groups: Vec<Group>,
    names: HashMap<Vec<u8>, Name>,
    quorum: Option<Option<Member>>,
}

struct Name {
    member: Member,
    in_a_group: bool,
}

impl Policy {
    /// Reads a policy strictly.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_POLICY {
            return Err(PolicyError::TooLong);
        }
        let mut reading = Reading::default();
        for (at, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\n").ok_or(PolicyError::Unended)?;
            reading.line(line).map_err(|fault| PolicyError::Line { line: at + 1, fault })?;
        }
        let Reading { logs, witnesses, groups, quorum, .. } = reading;
        Ok(Self { logs, witnesses, groups, quorum: quorum.ok_or(PolicyError::NoQuorum)? })
    }

    /// The logs that are believed.
    pub fn logs(&self) -> &[Log] {
        &self.logs
    }

    /// The witnesses that are known, whether the quorum needs them or not.
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// Whether the quorum asks for any cosignature. Without one, a log alone can show different trees to different people.
    pub fn needs_witnesses(&self) -> bool {
        self.quorum.is_some()
    }

    /// Whether the quorum is reached where exactly those witnesses cosigned for which `cosigned` says so.
    pub fn satisfied(&self, cosigned: impl Fn(&Witness) -> bool) -> bool {
        let witnesses: Vec<bool> = self.witnesses.iter().map(cosigned).collect();
        let mut groups: Vec<bool> = Vec::with_capacity(self.groups.len());
        let holds = |member: &Member, groups: &[bool]| match member {
            Member::Witness(at) => witnesses.get(*at).copied().unwrap_or(false),
            Member::Group(at) => groups.get(*at).copied().unwrap_or(false),
        };
        for group in &self.groups {
            let witnessed = group.members.iter().filter(|member| holds(member, &groups)).count();
            groups.push(witnessed >= group.threshold);
        }
        self.quorum.is_none_or(|quorum| holds(&quorum, &groups))
    }

    /// Whether a checkpoint is one of a known log, signed by it, and cosigned by a quorum; and no known key's signature is
    /// wrong. One key of a log is enough here. Where a log's both keys are known, [`LogKeys`](crate::LogKeys) and
    /// [`Self::cosigned`] ask for more.
    pub fn accept<'a>(&'a self, note: &'a Note) -> Result<Accepted<'a>, PolicyRefusal> {
        let verified = note.verify(self.logs.iter().map(|log| &log.key).chain(self.witness_keys()))?;
        let head = Head::parse(note.text())?;
        let by = |key: &Verifier| verified.iter().any(|one| one.key == key);
        if !self.logs.iter().any(|log| log.key.name() == head.origin() && by(&log.key)) {
            return Err(PolicyRefusal::Log { origin: head.origin().to_owned() });
        }
        if !head.is_possible() {
            return Err(PolicyRefusal::EmptyRoot);
        }
        self.quorum(&verified)?;
        Ok(Accepted { head, verified })
    }

    /// The cosignatures of a checkpoint whose log's signatures were verified, if they are a quorum; and no known witness's
    /// signature is wrong. The logs of the policy do not matter.
    pub fn cosigned<'a>(&'a self, checkpoint: &'a Checkpoint) -> Result<Vec<Verified<'a>>, PolicyRefusal> {
        let verified = match checkpoint.note().verify(self.witness_keys()) {
            Err(Unverified::Unknown) => Vec::new(),
            other => other?,
        };
        self.quorum(&verified)?;
        Ok(verified)
    }

    fn witness_keys(&self) -> impl Iterator<Item = &Verifier> {
        self.witnesses.iter().map(|witness| &witness.key)
    }

    fn quorum(&self, verified: &[Verified<'_>]) -> Result<(), PolicyRefusal> {
        // A cosignature without a time does not say that the witness saw no larger tree.
        let timed = |key: &Verifier| verified.iter().any(|one| one.key == key && one.time.is_some_and(|time| time > 0));
        if self.satisfied(|witness| timed(&witness.key)) { Ok(()) } else { Err(PolicyRefusal::Quorum) }
    }
}

/// A checkpoint that a policy accepts.
#[derive(Clone, Debug)]
pub struct Accepted<'a> {
    /// What it says.
    pub head: Head,
    /// The signatures of the policy's logs and witnesses.
    pub verified: Vec<Verified<'a>>,
}

/// A policy does not accept a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyRefusal {
    /// A signature is wrong, or nobody known signed.
    #[error(transparent)]
    Unverified(#[from] Unverified),
    /// The note does not say what a checkpoint says.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// No log of the policy with this origin signed it.
    #[error("no log of the policy signed for {origin:?}")]
    Log {
        /// The origin of the checkpoint.
        origin: String,
    },
    /// The root of the empty tree is another one.
    #[error("the root is not that of the empty tree")]
    EmptyRoot,
    /// The witnesses that cosigned are no quorum.
    #[error("the witnesses that cosigned are no quorum")]
    Quorum,
}

impl Reading {
    fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        if line.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
            return Err(Fault::Control);
        }
        let words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        let words: Vec<&[u8]> = words.collect();
        match words.as_slice() {
            [] => Ok(()),
            [first, ..] if first.starts_with(b"#") => Ok(()),
            [b"log", key, url @ ..] => self.log(key, url),
            [b"witness", name, key, url @ ..] => self.witness(name, key, url),
            [b"group", name, threshold, members @ ..] => self.group(name, threshold, members),
            [b"quorum", name] => self.quorum(name),
            [b"log" | b"witness" | b"group" | b"quorum", ..] => Err(Fault::Words),
            _ => Err(Fault::Word),
        }
    }

    fn log(&mut self, key: &[u8], url: &[&[u8]]) -> Result<(), Fault> {
        let key = read_key(key)?;
        if key.kind() == Kind::Ed25519Cosignature {
            return Err(Fault::Kind(key.kind()));
        }
        if self.logs.iter().any(|log| log.key.public() == key.public()) {
            return Err(Fault::DuplicateKey);
        }
        let url = read_url(url)?;
        room(&self.logs)?;
        self.logs.push(Log { key, url });
        Ok(())
    }

    fn witness(&mut self, name: &[u8], key: &[u8], url: &[&[u8]]) -> Result<(), Fault> {
        let key = read_key(key)?;
        if !key.kind().is_cosignature() {
            return Err(Fault::Kind(key.kind()));
        }
        if self.witnesses.iter().any(|witness| witness.key.public() == key.public()) {
            return Err(Fault::DuplicateKey);
        }
        let url = read_url(url)?;
        room(&self.witnesses)?;
        self.define(name, Member::Witness(self.witnesses.len()))?;
        self.witnesses.push(Witness { name: name.to_vec(), key, url });
        Ok(())
    }

    fn group(&mut self, name: &[u8], threshold: &[u8], names: &[&[u8]]) -> Result<(), Fault> {
        let threshold = match threshold {
            b"any" => 1,
            b"all" => names.len(),
            number => {
                let text = std::str::from_utf8(number).map_err(|_| Fault::Threshold)?;
                let number = decimal(text).and_then(|number| usize::try_from(number).ok());
                number.ok_or(Fault::Threshold)?
            }
        };
        if names.is_empty() {
            return Err(Fault::Words);
        }
        if !(1..=names.len()).contains(&threshold) {
            return Err(Fault::Threshold);
        }
        let mut members = Vec::with_capacity(names.len());
        for name in names {
            let name = self.names.get_mut(*name).ok_or(Fault::Unknown)?;
            // Each witness counts in one way only.
            if std::mem::replace(&mut name.in_a_group, true) {
                return Err(Fault::MemberTwice);
            }
            members.push(name.member);
        }
        room(&self.groups)?;
        self.define(name, Member::Group(self.groups.len()))?;
        self.groups.push(Group { threshold, members });
        Ok(())
    }

    fn quorum(&mut self, name: &[u8]) -> Result<(), Fault> {
        if self.quorum.is_some() {
            return Err(Fault::QuorumTwice);
        }
        self.quorum = Some(match name {
            b"none" => None,
            name => Some(self.names.get(name).ok_or(Fault::Unknown)?.member),
        });
        Ok(())
    }

    fn define(&mut self, name: &[u8], member: Member) -> Result<(), Fault> {
        if name == b"none" || self.names.contains_key(name) {
            return Err(Fault::Taken);
        }
        self.names.insert(name.to_vec(), Name { member, in_a_group: false });
        Ok(())
    }
}

fn read_key(word: &[u8]) -> Result<Verifier, Fault> {
    let text = std::str::from_utf8(word).map_err(|_| Fault::Key(KeyError::Shape))?;
    Ok(text.parse()?)
}

fn read_url(words: &[&[u8]]) -> Result<Option<Vec<u8>>, Fault> {
    match words {
        [] => Ok(None),
        [url] => Ok(Some(url.to_vec())),
        _ => Err(Fault::Words),
    }
}

fn room<T>(list: &[T]) -> Result<(), Fault> {
    if list.len() < MAX_OF_EACH { Ok(()) } else { Err(Fault::TooMany) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::LogSigner;
    use crate::hash::{Hash, leaf_hash};
    use crate::key::{SEED, Signer};
    use proptest::prelude::*;

    const ORIGIN: &str = "log.example/1";

    fn key(kind: Kind, name: &str, seed: u8) -> Signer {
        Signer::from_seed(kind, name, &[seed; SEED]).unwrap()
    }

    fn log(seed: u8) -> Signer {
        key(Kind::Ed25519, ORIGIN, seed)
    }

    fn witness(seed: u8) -> Signer {
        key(Kind::Ed25519Cosignature, &format!("witness.example/{seed}"), seed)
    }

    /// Witnesses X1, X2, X3, Y1, Y2, Y3 with the keys of seeds 11 to 16.
    fn six(rest: &str) -> String {
        let lines = (11..).zip(["X1", "X2", "X3", "Y1", "Y2", "Y3"]);
        let lines = lines.map(|(seed, name)| format!("witness {name} {}\n", witness(seed).verifier()));
        format!("log {}\n\n{}{rest}", log(1).verifier(), lines.collect::<String>())
    }

    const EXAMPLE: &str = "group X-witnesses 2 X1 X2 X3\ngroup Y-witnesses any Y1 Y2 Y3\n\
        group X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n";

    fn read(text: &str) -> Result<Policy, PolicyError> {
        Policy::parse(text.as_bytes())
    }

    fn by(policy: &Policy, names: &[&str]) -> bool {
        policy.satisfied(|witness| names.iter().any(|name| name.as_bytes() == witness.name))
    }

    #[test]
    fn the_example_of_the_specification() {
        let policy = read(&six(EXAMPLE)).unwrap();
        assert!(policy.needs_witnesses());
        for (names, enough) in [
            (&["X1", "X2", "Y1"][..], true),
            (&["X3", "X2", "Y3"], true),
            (&["X1", "X2", "X3"], false),
            (&["X1", "Y1", "Y2", "Y3"], false),
            (&["X1", "X2", "X3", "Y1", "Y2", "Y3"], true),
            (&[], false),
        ] {
            assert_eq!(by(&policy, names), enough, "{names:?}");
        }
        let one = read(&six("quorum X1\n")).unwrap();
        assert!(by(&one, &["X1"]) && !by(&one, &["X2", "Y1"]));
        let none = read(&six("quorum none\n")).unwrap();
        assert!(by(&none, &[]) && !none.needs_witnesses());
        assert!(read("quorum none\n").unwrap().logs().is_empty());
    }

    #[test]
    fn each_rule_is_kept() {
        let last = |rest: &str| match read(&six(rest)) {
            Err(PolicyError::Line { fault, .. }) => Err(fault),
            other => Ok(other),
        };
        let (own, timed) = (log(1).verifier().to_string(), witness(11).verifier().to_string());
        let renamed = key(Kind::Ed25519, "other", 1).verifier().to_string();
        let new = witness(30).verifier().to_string();
        for (rest, fault) in [
            ("quorum\n".to_owned(), Fault::Words),
            ("quorum X1 X2\n".to_owned(), Fault::Words),
            ("quorum Z\n".to_owned(), Fault::Unknown),
            ("quorum X1\nquorum X2\n".to_owned(), Fault::QuorumTwice),
            ("quorum none\nquorum none\n".to_owned(), Fault::QuorumTwice),
            ("quorum g\ngroup g any X1\n".to_owned(), Fault::Unknown),
            ("group g any X1 X1\n".to_owned(), Fault::MemberTwice),
            ("group g any X1\ngroup h any X1\n".to_owned(), Fault::MemberTwice),
            ("group g any g\n".to_owned(), Fault::Unknown),
            ("group g any h\ngroup h any g\n".to_owned(), Fault::Unknown),
            ("group g any none\n".to_owned(), Fault::Unknown),
            ("group none any X1\n".to_owned(), Fault::Taken),
            ("group X1 any X2\n".to_owned(), Fault::Taken),
            ("group g any X1\ngroup g any X2\n".to_owned(), Fault::Taken),
            ("group g any\n".to_owned(), Fault::Words),
            ("group g\n".to_owned(), Fault::Words),
            ("group g 0 X1\n".to_owned(), Fault::Threshold),
            ("group g 3 X1 X2\n".to_owned(), Fault::Threshold),
            ("group g -1 X1 X2\n".to_owned(), Fault::Threshold),
            ("group g +1 X1 X2\n".to_owned(), Fault::Threshold),
            ("group g 01 X1 X2\n".to_owned(), Fault::Threshold),
            ("group g 99999999999999999999 X1\n".to_owned(), Fault::Threshold),
            ("group g most X1 X2\n".to_owned(), Fault::Threshold),
            (format!("log {own}\n"), Fault::DuplicateKey),
            (format!("log {renamed}\n"), Fault::DuplicateKey),
            (format!("witness Z {timed}\n"), Fault::DuplicateKey),
            (format!("witness X1 {new}\n"), Fault::Taken),
            (format!("witness none {new}\n"), Fault::Taken),
            (format!("witness Z {new} url more\n"), Fault::Words),
            (format!("witness {new}\n"), Fault::Words),
            (format!("log {timed}\n"), Fault::Kind(Kind::Ed25519Cosignature)),
            (format!("witness Z {own}\n"), Fault::Kind(Kind::Ed25519)),
            ("log\n".to_owned(), Fault::Words),
            ("log key\n".to_owned(), Fault::Key(KeyError::Shape)),
            ("Quorum none\n".to_owned(), Fault::Word),
            ("quorum none\r\n".to_owned(), Fault::Control),
            ("quorum\u{b}none\n".to_owned(), Fault::Control),
            ("# a comment\u{7f}\n".to_owned(), Fault::Control),
        ] {
            assert_eq!(last(&rest), Err(fault), "{rest}");
        }
        assert_eq!(read(""), Err(PolicyError::NoQuorum));
        assert_eq!(read("quorum none"), Err(PolicyError::Unended));
        assert_eq!(read(&"\n".repeat(MAX_POLICY + 1)), Err(PolicyError::TooLong));
        let wrong = read("\n#\nquorum Z\n").unwrap_err();
        assert_eq!(wrong.to_string(), "line 3 of the policy: no earlier line defines the name");
    }

    #[test]
    fn spaces_comments_addresses_and_opaque_names() {
        let (own, new) = (log(1).verifier().to_string(), witness(30).verifier().to_string());
        let text = format!(
            "  # a comment with \u{e9}\n\t\n\tlog \t{own}  https://log.example/ \n witness \u{212a} {new} https://w/\n\
             group K all \u{212a}\nquorum\tK\t\n"
        );
        let policy = read(&text).unwrap();
        assert_eq!(policy.logs()[0].url.as_deref(), Some(&b"https://log.example/"[..]));
        assert_eq!(policy.witnesses()[0].url.as_deref(), Some(&b"https://w/"[..]));
        assert!(by(&policy, &["\u{212a}"]) && !by(&policy, &["K"]));
        let mut bytes = six("").into_bytes();
        bytes.extend_from_slice(b"group \xff\xfe any X1\nquorum \xff\xfe\n");
        assert!(by(&Policy::parse(&bytes).unwrap(), &["X1"]));
    }

    #[test]
    fn thirty_two_of_each_and_more_are_read() {
        let mut text = String::new();
        for seed in 0..64 {
            text += &format!("log {}\n", log(seed).verifier());
            text += &format!("witness w{seed} {}\n", witness(seed).verifier());
            text += &format!("group g{seed} any w{seed}\n");
        }
        let all: String = (0..64).map(|seed| format!(" g{seed}")).collect();
        let policy = read(&format!("{text}group all 64{all}\nquorum all\n")).unwrap();
        assert!(policy.satisfied(|_| true));
        assert!(!policy.satisfied(|witness| witness.name != b"w63"));
        let groups: String = (0..=MAX_OF_EACH)
            .map(|at| {
                format!(
                    "group h{at} any {}\n",
                    ["X1", "h"][usize::from(at > 0)].to_owned()
                        + &if at > 0 { (at - 1).to_string() } else { String::new() }
                )
            })
            .collect();
        let refused = read(&six(&groups)).unwrap_err();
        assert!(matches!(refused, PolicyError::Line { fault: Fault::TooMany, .. }));
    }

    fn note(text: &str, signers: &[&Signer], time: u64) -> Note {
        Note::new(text.to_owned(), signers.iter().map(|signer| signer.sign(text, time).unwrap()).collect()).unwrap()
    }

    #[test]
    fn a_checkpoint_needs_its_log_and_its_quorum() {
        let policy = read(&six(EXAMPLE)).unwrap();
        let (log, [x1, x2, y1]) = (log(1), [11, 12, 14].map(witness));
        let text = Head::new(ORIGIN, 5, leaf_hash(b"a")).unwrap().to_string();
        let good = note(&text, &[&log, &x1, &x2, &y1], 9);
        let accepted = policy.accept(&good).unwrap();
        assert_eq!((accepted.head.size(), accepted.verified.len()), (5, 4));
        let refusal = |note: &Note| policy.accept(note).unwrap_err();
        assert_eq!(refusal(&note(&text, &[&log, &x1, &y1], 9)), PolicyRefusal::Quorum);
        assert_eq!(refusal(&note(&text, &[&log, &x1, &x1, &x1, &y1], 9)), PolicyRefusal::Quorum);
        assert_eq!(refusal(&note(&text, &[&log, &x1, &x2, &y1], 0)), PolicyRefusal::Quorum, "no time, no statement");
        let no_log = PolicyRefusal::Log { origin: ORIGIN.to_owned() };
        assert_eq!(refusal(&note(&text, &[&x1, &x2, &y1], 9)), no_log);
        // The key of one log does not sign for another.
        let elsewhere = Head::new("log.example/2", 5, leaf_hash(b"a")).unwrap().to_string();
        let refused = refusal(&note(&elsewhere, &[&log, &x1, &x2, &y1], 9));
        assert_eq!(refused, PolicyRefusal::Log { origin: "log.example/2".to_owned() });
        // A wrong cosignature refuses the note though the others would be enough.
        let other = Head::new(ORIGIN, 6, leaf_hash(b"a")).unwrap().to_string();
        let wrong = witness(13).sign(&other, 9).unwrap();
        let spoiled = good.clone().with([wrong]).unwrap();
        assert!(matches!(refusal(&spoiled), PolicyRefusal::Unverified(Unverified::Wrong { .. })));
        let nothing = Head::parse(&format!("{ORIGIN}\n0\n{}\n", Hash([7; 32]))).unwrap().to_string();
        assert_eq!(refusal(&note(&nothing, &[&log, &x1, &x2, &y1], 9)), PolicyRefusal::EmptyRoot);
    }

    #[test]
    fn a_policy_without_logs_counts_the_cosignatures_of_a_checkpoint() {
        let of = |kind| key(kind, ORIGIN, 1);
        let signer = LogSigner::new(of(Kind::Ed25519), of(Kind::MlDsa44Cosignature)).unwrap();
        let bare = signer.sign(5, leaf_hash(b"a"), 7).unwrap();
        let of = |rest: &str| read(&six(rest).replacen("log ", "#", 1)).unwrap();
        let (two, none) = (of("group g 2 X1 X2\nquorum g\n"), of("quorum none\n"));
        assert!(two.logs().is_empty() && matches!(two.accept(bare.note()), Err(PolicyRefusal::Unverified(_))));
        assert!(none.cosigned(&bare).unwrap().is_empty());
        assert_eq!(two.cosigned(&bare).unwrap_err(), PolicyRefusal::Quorum);
        let lines = [11, 12].map(|seed| witness(seed).sign(bare.note().text(), 9).unwrap());
        let one = bare.clone().with(lines[..1].to_vec()).unwrap();
        assert_eq!(two.cosigned(&one).unwrap_err(), PolicyRefusal::Quorum);
        let both = bare.clone().with(lines).unwrap();
        assert_eq!(two.cosigned(&both).unwrap().iter().map(|one| one.time).collect::<Vec<_>>(), [Some(9), Some(9)]);
        let other = signer.sign(6, leaf_hash(b"a"), 7).unwrap();
        let wrong = both.with([witness(13).sign(other.note().text(), 9).unwrap()]).unwrap();
        assert!(matches!(two.cosigned(&wrong), Err(PolicyRefusal::Unverified(Unverified::Wrong { .. }))));
    }

    proptest! {
        #[test]
        fn more_witnesses_never_satisfy_less(
            groups in prop::collection::vec((1_usize..4, 1_usize..5), 1..6),
            cosigned: [bool; 6],
            extra in 0_usize..6,
        ) {
            // Each group takes the next free witnesses and the group before it.
            let (mut text, mut free) = (String::new(), ["X1", "X2", "X3", "Y1", "Y2", "Y3"].into_iter());
            for (at, (threshold, width)) in groups.iter().enumerate() {
                let mut members: Vec<String> = free.by_ref().take(*width).map(str::to_owned).collect();
                members.extend(at.checked_sub(1).map(|before| format!("g{before}")));
                if members.is_empty() {
                    break;
                }
                text += &format!("group g{at} {} {}\nquorum g{at}\n", threshold.min(&members.len()), members.join(" "));
            }
            // Only the last quorum line stays.
            let last = text.rfind("quorum").unwrap();
            let text = text[..last].lines().filter(|line| !line.starts_with("quorum")).map(|line| format!("{line}\n"))
                .collect::<String>() + &text[last..];
            let policy = read(&six(&text)).unwrap();
            let at = |witness: &Witness| policy.witnesses().iter().position(|other| other == witness).unwrap();
            let less = policy.satisfied(|witness| cosigned[at(witness)]);
            let more = policy.satisfied(|witness| cosigned[at(witness)] || at(witness) == extra);
            prop_assert!(more || !less);
            prop_assert!(policy.satisfied(|_| true) && !policy.satisfied(|_| false));
        }
    }
}
