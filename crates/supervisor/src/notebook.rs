//! What a daemon writes down about an instance for the next one: a small file in memory that the keeper holds and never
//! reads. It ends with the instance.
//!
//! Byte 0 says whether the server may have got only the beginning of a line. From byte 16 on stands the story, whose length
//! (bytes 8 to 16) is written last: half a story has no length and is none.

use crate::handshake::Introduction;
use crate::instance::Instance;
use crate::key::{Holder, Key};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use wire::era::{Era, Revision};
use wire::greeting::Greeting;

const TORN: u64 = 0;
const LENGTH: u64 = 8;
const STORY: u64 = 16;
/// A greeting may be as long as a line of a server.
const MOST: u64 = 64 << 20;

/// The notebook of one instance.
#[derive(Debug)]
pub(crate) struct Notebook {
    file: File,
}

/// What the next daemon must know of an instance that got through its handshake.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Story {
    pub(crate) server: String,
    pub(crate) generation: u64,
    modern: bool,
    holder: Holder,
    profile: String,
    told: Told,
    /// The raw `result` of the handshake.
    greeting: String,
    pub(crate) started_at_ms: i64,
}

/// What the process was told about its client.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    profile: String,
    client_info: String,
    revision: String,
}

/// A process that was told about, as the types that the supervisor works with.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) key: Key,
    pub(crate) introduction: Introduction,
    pub(crate) greeting: Greeting,
}

impl Story {
    /// Tells of an instance. `None` if it did not get through its handshake.
    pub(crate) fn of(instance: &Instance, generation: u64, key: &Key, introduction: &Introduction) -> Option<Self> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        Some(Self {
            server: instance.server().to_string(),
            generation,
            modern: key.era == Era::Modern,
            holder: key.holder.clone(),
            profile: text(&key.profile)?,
            told: Told {
                profile: text(&introduction.profile)?,
                client_info: text(&introduction.client_info)?,
                revision: introduction.revision.as_str().to_owned(),
            },
            greeting: text(instance.greeting()?.result())?,
            started_at_ms: instance.started_at_ms,
        })
    }

    /// `None` where another build wrote what this one does not understand.
    pub(crate) fn known(&self) -> Option<Known> {
        let era = if self.modern { Era::Modern } else { Era::Legacy };
        Some(Known {
            key: Key { era, holder: self.holder.clone(), profile: self.profile.clone().into() },
            introduction: Introduction {
                profile: self.told.profile.clone().into(),
                client_info: self.told.client_info.clone().into(),
                revision: Revision::parse(&self.told.revision)?,
            },
            greeting: Greeting::new(era, self.greeting.clone().into())?,
        })
    }
}

impl Notebook {
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self { file: File::from(file) }
    }

    /// Replaces the story.
    pub(crate) fn write(&self, story: &Story) -> io::Result<()> {
        let text = serde_json::to_vec(story)?;
        self.file.write_all_at(&0_u64.to_le_bytes(), LENGTH)?;
        self.file.write_all_at(&text, STORY)?;
        self.file.write_all_at(&(text.len() as u64).to_le_bytes(), LENGTH)
    }

    /// The story, if a whole one was written.
    pub(crate) fn read(&self) -> Option<Story> {
        let mut length = [0; 8];
        self.file.read_exact_at(&mut length, LENGTH).ok()?;
        let length = u64::from_le_bytes(length);
        let mut text = vec![0; usize::try_from(length).ok().filter(|_| (1..=MOST).contains(&length))?];
        self.file.read_exact_at(&mut text, STORY).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// A line is about to be written that the pipe may take only in part.
    pub(crate) fn tear(&self) {
        self.mark(1);
    }

    /// The pipe has taken it whole.
    pub(crate) fn mend(&self) {
        self.mark(0);
    }

    /// Whether the last line to the server may be half.
    pub(crate) fn torn(&self) -> bool {
        let mut mark = [0];
        self.file.read_exact_at(&mut mark, TORN).is_ok() && mark != [0]
    }

    /// Memory that cannot be written is not to be had: the next daemon would send half a line's rest, and the server would
    /// refuse it.
    fn mark(&self, mark: u8) {
        if let Err(error) = self.file.write_all_at(&[mark], TORN) {
            tracing::warn!(%error, "the state of a pipe could not be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story() -> Story {
        Story {
            server: "s".to_owned(),
            generation: 3,
            modern: false,
            holder: Holder::Session { principal: "ann".parse().unwrap(), id: "s1".to_owned() },
            profile: r#"{"sampling":{}}"#.to_owned(),
            told: Told { profile: "{}".to_owned(), client_info: "{}".to_owned(), revision: "2025-06-18".to_owned() },
            greeting: r#"{"protocolVersion":"2025-06-18","capabilities":{},"x":1.0e5}"#.to_owned(),
            started_at_ms: 5,
        }
    }

    #[test]
    fn what_was_written_is_read_and_half_of_it_is_nothing() {
        let file = tempfile::tempfile().unwrap();
        let notebook = Notebook::new(file.try_clone().unwrap().into());
        assert_eq!((notebook.read(), notebook.torn()), (None, false));
        notebook.tear();
        notebook.write(&story()).unwrap();
        assert_eq!((notebook.read(), notebook.torn()), (Some(story()), true));
        let known = story().known().unwrap();
        assert_eq!(known.greeting.result(), story().greeting.as_bytes());
        assert_eq!((known.key.holder, known.introduction.revision), (story().holder, Revision::V20250618));
        notebook.mend();
        assert!(!notebook.torn());
        let whole = file.metadata().unwrap().len();
        for length in 0..whole {
            file.set_len(length).unwrap();
            assert_eq!(notebook.read(), None, "{length} of {whole} bytes");
        }
    }
}
