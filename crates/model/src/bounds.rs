//! What one process of a server, with all that it starts, may take of the machine; and when it is stopped for
//! idleness. Each is optional: what a server does not say, the host's defaults say.

use crate::measure::{show_size, show_time, size, time};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Most spares of one server: each is a whole process that nobody uses.
pub const MOST_SPARES: u32 = 8;

/// Bounds of a server, as its operator set them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bounds {
    /// Resident memory of an instance's whole process tree, bytes. Over it the tree is ended.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "sized")]
    pub memory: Option<u64>,
    /// Processes of the tree. Over it the tree is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Open files of each process: opening more fails in the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u32>,
    /// CPU time of the tree, in percent of one core: it is slowed down, not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Bytes per second that it may write to stdout: it waits, nothing is lost.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "sized")]
    pub output_rate: Option<u64>,
    /// When an instance that nobody uses is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ttl: Option<IdleTtl>,
    /// Instances that are started ahead, and wait for whoever needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spares: Option<u32>,
}

/// When an instance that nobody uses is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum IdleTtl {
    /// After this long. A session that only might call again does not keep it.
    After(Duration),
    /// Never for idleness.
    Never,
}

impl TryFrom<String> for IdleTtl {
    type Error = BadBound;
    fn try_from(text: String) -> Result<Self, BadBound> {
        idle_ttl(&text)
    }
}

impl From<IdleTtl> for String {
    fn from(ttl: IdleTtl) -> Self {
        match ttl {
            IdleTtl::After(time) => show_time(time),
            IdleTtl::Never => "never".to_owned(),
        }
    }
}

/// Most output where nobody said anything else.
const OUTPUT_RATE: u64 = 256 << 20;

/// What holds for one server's instances. No value means no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Resident memory of the tree, bytes.
    pub memory: Option<u64>,
    /// Processes of the tree.
    pub processes: Option<u32>,
    /// Open files of each process.
    pub open_files: Option<u32>,
    /// Percent of one core.
    pub cpu: Option<u32>,
    /// Bytes per second on stdout, and as many on stderr.
    pub output_rate: u64,
}

/// A value that no bound can have: which, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` must be {wanted}")]
pub struct BadBound {
    name: &'static str,
    wanted: &'static str,
}

impl BadBound {
    /// What would be right, to end a sentence that begins with a name of the caller's choice and "must be".
    pub fn wanted(&self) -> &'static str {
        self.wanted
    }
}

fn bad<T>(name: &'static str, wanted: &'static str) -> Result<T, BadBound> {
    Err(BadBound { name, wanted })
}

/// A memory bound. Anything below 1 MiB is a forgotten unit.
pub fn memory(text: &str) -> Result<u64, BadBound> {
    let wanted = "a size of at least 1 MiB, like \"512 MiB\" or \"2 GiB\"";
    size(text).filter(|bytes| *bytes >= 1 << 20).map_or_else(|| bad("memory", wanted), Ok)
}

/// A bound on the processes of an instance.
pub fn processes(text: &str) -> Result<u32, BadBound> {
    whole(text, 1, 1 << 22).map_or_else(|| bad("processes", "a whole number from 1 to 4194304, like 64"), Ok)
}

/// A bound on open files. With fewer than 32 no runtime starts.
pub fn open_files(text: &str) -> Result<u32, BadBound> {
    whole(text, 32, 1 << 20).map_or_else(|| bad("openFiles", "a whole number from 32 to 1048576, like 1024"), Ok)
}

/// A share of the CPU, in percent of one core.
pub fn cpu(text: &str) -> Result<u32, BadBound> {
    let wanted = "percent of one core, a whole number from 1 to 100000: 50 is half a core, 200 are two";
    whole(text.strip_suffix('%').unwrap_or(text).trim(), 1, 100_000).map_or_else(|| bad("cpu", wanted), Ok)
}

/// A bound on output. Below 4 KiB a second not even the list of tools arrives.
pub fn output_rate(text: &str) -> Result<u64, BadBound> {
    let wanted = "a size per second of at least 4 KiB, like \"8 MiB\"";
    size(text).filter(|bytes| *bytes >= 4 << 10).map_or_else(|| bad("outputRate", wanted), Ok)
}

/// An idle time.
pub fn idle_ttl(text: &str) -> Result<IdleTtl, BadBound> {
    match (text, time(text)) {
        ("never", _) => Ok(IdleTtl::Never),
        (_, Some(time)) => Ok(IdleTtl::After(time)),
        (_, None) => bad("idleTtl", "a time above 0 like \"30 s\", \"15 min\" or \"2 h\", or \"never\""),
    }
}

/// A number of spares.
pub fn spares(text: &str) -> Result<u32, BadBound> {
    whole(text, 0, MOST_SPARES).map_or_else(|| bad("spares", "a whole number from 0 to 8"), Ok)
}

fn whole(text: &str, least: u32, most: u32) -> Option<u32> {
    text.parse().ok().filter(|number| (least..=most).contains(number))
}

impl Bounds {
    /// The names that [`Bounds::set`] takes.
    pub const NAMES: [&'static str; 7] = ["memory", "processes", "openFiles", "cpu", "outputRate", "idleTtl", "spares"];
    /// Those of them that mean something for a server without processes here.
    pub const REMOTE: [&'static str; 1] = ["idleTtl"];

    /// What an instance may take where neither its server nor the configuration says anything.
    ///
    /// * memory: no bound. A browser or a model needs gigabytes, a calculator 50 MiB; only the operator knows which it is.
    /// * processes: 512. Above what a browser with its tabs starts, far below what fills a machine's process table.
    /// * open files: 4096. Above what file watchers and browsers open; a leak fails in its own process.
    /// * CPU: no bound. The kernel shares a busy machine fairly, and a server that computes is not ill.
    /// * output: 256 MiB a second. No tool's answers come near, and reading it leaves the daemon time for others.
    pub fn host_defaults() -> Self {
        Self { processes: Some(512), open_files: Some(4096), output_rate: Some(OUTPUT_RATE), ..Self::default() }
    }

    /// The bound of this name as text that [`Bounds::set`] reads.
    pub fn get(&self, name: &str) -> Option<String> {
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        match name {
            "memory" => self.memory.map(show_size),
            "processes" => number(self.processes),
            "openFiles" => number(self.open_files),
            "cpu" => number(self.cpu),
            "outputRate" => self.output_rate.map(show_size),
            "idleTtl" => self.idle_ttl.map(String::from),
            "spares" => number(self.spares),
            _ => None,
        }
    }

    /// Sets the bound of this name, as a person wrote it. An unknown name sets nothing.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), BadBound> {
        let text = text.trim();
        match name {
            "memory" => self.memory = Some(memory(text)?),
            "processes" => self.processes = Some(processes(text)?),
            "openFiles" => self.open_files = Some(open_files(text)?),
            "cpu" => self.cpu = Some(cpu(text)?),
            "outputRate" => self.output_rate = Some(output_rate(text)?),
            "idleTtl" => self.idle_ttl = Some(idle_ttl(text)?),
            "spares" => self.spares = Some(spares(text)?),
            _ => {}
        }
        Ok(())
    }

    /// Whether the operator set none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What holds, with the host's defaults where the server says nothing.
    pub fn effective(&self, host: &Self) -> Effective {
        Effective {
            memory: self.memory.or(host.memory),
            processes: self.processes.or(host.processes),
            open_files: self.open_files.or(host.open_files),
            cpu: self.cpu.or(host.cpu),
            output_rate: self.output_rate.or(host.output_rate).unwrap_or(OUTPUT_RATE),
        }
    }

    /// After how long an instance that nobody uses is stopped; `None` for never.
    pub fn idle_after(&self, host: Duration) -> Option<Duration> {
        match self.idle_ttl {
            None => Some(host),
            Some(IdleTtl::After(time)) => Some(time),
            Some(IdleTtl::Never) => None,
        }
    }
}

/// A size as text; a bare number of bytes is read too.
mod sized {
    use super::{show_size, size};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Number(u64),
        Text(String),
    }

    pub(super) fn serialize<S: Serializer>(bytes: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        bytes.map(show_size).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        match Option::<Given>::deserialize(from)? {
            None => Ok(None),
            Some(Given::Number(bytes)) => Ok(Some(bytes)),
            Some(Given::Text(text)) => {
                size(&text).map(Some).ok_or_else(|| D::Error::custom("a size must be like \"512 MiB\""))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Bounds {
        let mut bounds = Bounds::default();
        for (name, text) in pairs {
            bounds.set(name, text).unwrap();
        }
        bounds
    }

    #[test]
    fn what_a_server_does_not_say_the_host_says() {
        let host = Bounds { memory: Some(1 << 30), cpu: Some(150), ..Bounds::host_defaults() };
        let said = set(&[("memory", "512MiB"), ("processes", "64"), ("outputRate", "8 MiB"), ("cpu", "50%")]);
        let held = said.effective(&host);
        assert_eq!((held.memory, held.processes, held.open_files), (Some(512 << 20), Some(64), Some(4096)));
        assert_eq!((held.cpu, held.output_rate), (Some(50), 8 << 20));
        assert_eq!(Bounds::default().effective(&host).memory, Some(1 << 30));
        let minute = Duration::from_secs(60);
        assert_eq!(Bounds::default().idle_after(minute), Some(minute));
        assert_eq!(set(&[("idleTtl", "2 h")]).idle_after(minute), Some(minute * 120));
        assert_eq!(set(&[("idleTtl", "never")]).idle_after(minute), None);
    }

    #[test]
    fn a_bad_value_says_what_would_be_right() {
        for (name, wrong, says) in [
            ("memory", "512", "at least 1 MiB"),
            ("memory", "lots", "like \"512 MiB\""),
            ("processes", "0", "from 1 to"),
            ("processes", "1.5", "from 1 to"),
            ("openFiles", "3", "from 32 to"),
            ("cpu", "0", "percent of one core"),
            ("outputRate", "1", "at least 4 KiB"),
            ("idleTtl", "15", "15 min"),
            ("spares", "9", "from 0 to 8"),
            ("spares", "-1", "from 0 to 8"),
        ] {
            let error = Bounds::default().set(name, wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{name}` must be")) && error.contains(says), "{error}");
        }
    }

    #[test]
    fn every_name_sets_something_and_is_refused_something() {
        for name in Bounds::NAMES {
            assert!(Bounds::default().set(name, "parrots").is_err(), "{name}");
            let value = ["3", "64", "16 MiB", "2 h"].iter().find_map(|text| {
                let mut bounds = Bounds::default();
                bounds.set(name, text).ok().map(|()| (bounds.get(name).unwrap(), (*text).to_owned()))
            });
            let (shown, given) = value.unwrap();
            assert_eq!(shown, given, "{name}");
        }
        assert!(Bounds::REMOTE.iter().all(|name| Bounds::NAMES.contains(name)));
    }
}
