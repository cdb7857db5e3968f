//! The ledger as others read it, below `/audit/v1/`: C2SP tlog-tiles, and a proof of each entry. It is read beside the writer,
//! from the files, so that no reader holds up a call.
//!
//! Entries say who did what, and even their hashes say how much is done here: both need a token for the ledger, the hashes only
//! where they are not public.

use crate::admit::admit_audit;
use crate::error::GateError;
use crate::listen::Host;
use crate::reply::Body;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response};
use ledger::recover::OpenError;
use ledger::tile::{Bundle, Tile, encode_tile};
use ledger::view::ReadError;
use ledger::{Disk, LogKeys, Proof, Reader, RealDisk, Signed};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use stdx::clock::monotonic;
use tokio::sync::Semaphore;

/// Where all of it is.
pub(crate) const ROOT: &str = "/audit/v1/";
/// Requests that read at one time.
const READERS: usize = 2;
/// How long a request may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the latest checkpoint that was read may be shown again.
const FRESH: Duration = Duration::from_millis(200);

/// A ledger that can be read. Clones read the same one.
#[derive(Clone, Debug)]
pub struct Audit {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    keys: LogKeys,
    public: bool,
    room: Semaphore,
    seen: Mutex<Option<Seen>>,
}

/// The log as it was when it was last looked at.
#[derive(Debug)]
struct Seen {
    reader: Reader,
    at: Instant,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Checkpoint,
    /// The latest one that witnesses cosigned.
    Witnessed,
    Keys,
    Tile(Tile),
    Entries(Bundle),
    Proof(u64),
    /// One entry, as it is hashed.
    Entry(u64),
}

/// Why it cannot be had.
#[derive(Debug)]
enum Missing {
    /// It is not there.
    Absent(&'static str),
    /// The disk, or what is on it.
    Unreadable(String),
}

impl From<OpenError> for Missing {
    fn from(error: OpenError) -> Self {
        Self::Unreadable(stdx::chain::Chain(&error).to_string())
    }
}

impl From<ReadError> for Missing {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Pruned { .. } => Self::Absent("it was pruned"),
            ReadError::NotInLog { .. } => Self::Absent("no checkpoint covers so many entries"),
            other => Self::Unreadable(stdx::chain::Chain(&other).to_string()),
        }
    }
}

impl Wanted {
    /// By the path behind [`ROOT`]. Each thing has one spelling.
    fn of(path: &str) -> Option<Self> {
        match path {
            "checkpoint" => return Some(Self::Checkpoint),
            "witnessed" => return Some(Self::Witnessed),
            "vkeys" => return Some(Self::Keys),
            _ => {}
        }
        let numbered = |index: &str| index.parse().ok().filter(|number: &u64| number.to_string() == index);
        if let Some(index) = path.strip_prefix("proof/") {
            return numbered(index).map(Self::Proof);
        }
        if let Some(index) = path.strip_prefix("entry/") {
            return numbered(index).map(Self::Entry);
        }
        Bundle::from_path(path).map(Self::Entries).or_else(|| Tile::from_path(path).map(Self::Tile))
    }

    /// Whether it says what somebody did.
    fn tells(self) -> bool {
        matches!(self, Self::Entries(_) | Self::Proof(_) | Self::Entry(_))
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Tile(_) | Self::Entries(_) | Self::Entry(_) => "application/octet-stream",
            Self::Checkpoint | Self::Witnessed | Self::Keys | Self::Proof(_) => "text/plain; charset=utf-8",
        }
    }

    /// What is full never changes; what needs a token is nothing for a shared cache.
    fn cache(self, public: bool) -> &'static str {
        match self {
            Self::Tile(tile) if tile.is_full() && public => "public, max-age=31536000, immutable",
            Self::Tile(tile) if tile.is_full() => "private, max-age=31536000, immutable",
            Self::Entries(bundle) if usize::from(bundle.width()) == FULL => "private, max-age=31536000, immutable",
            _ => "no-store",
        }
    }
}

const FULL: usize = ledger::tile::WIDTH as usize;

impl Audit {
    /// The log in `dir` that has these keys. Whether everybody may read its hashes is `public`; entries always need a token.
    pub fn new(dir: &Path, keys: LogKeys, public: bool) -> Self {
        let (room, seen) = (Semaphore::new(READERS), Mutex::new(None));
        Self { inner: Arc::new(Inner { dir: dir.to_path_buf(), keys, public, room, seen }) }
    }

    async fn read(&self, wanted: Wanted) -> Result<Vec<u8>, Missing> {
        let busy = || Missing::Unreadable("too many read it at one time".to_owned());
        let place = tokio::time::timeout(PATIENCE, self.inner.room.acquire()).await;
        let _place = place.map_err(|_| busy())?.map_err(|_| busy())?;
        let inner = self.inner.clone();
        let read = tokio::task::spawn_blocking(move || inner.read(wanted)).await;
        read.unwrap_or_else(|_| Err(Missing::Unreadable("reading it failed".to_owned())))
    }
}

impl Inner {
    fn read(&self, wanted: Wanted) -> Result<Vec<u8>, Missing> {
        if wanted == Wanted::Keys {
            return Ok(self.keys.to_string().into_bytes());
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.as_ref().is_some_and(|seen| seen.has(wanted));
        if !known && let Err(error) = self.look(&mut seen) {
            // What is wrong may be mended by then.
            *seen = None;
            return Err(error.into());
        }
        let Some(Seen { reader, .. }) = &*seen else { return Err(Missing::Absent("it is empty")) };
        self.take(reader, wanted)
    }

    /// Looks at the log again.
    fn look(&self, seen: &mut Option<Seen>) -> Result<(), OpenError> {
        if let Some(known) = seen
            && known.reader.refresh().is_ok()
        {
            known.at = monotonic();
            return Ok(());
        }
        // A log that was pruned or begun anew is opened anew.
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let reader = Reader::open(&disk, &self.dir, Arc::new(self.keys.clone()))?;
        *seen = Some(Seen { reader, at: monotonic() });
        Ok(())
    }

    fn take(&self, reader: &Reader, wanted: Wanted) -> Result<Vec<u8>, Missing> {
        let signed = reader.signed().ok_or(Missing::Absent("nothing is signed yet"))?;
        let covered = |end: u64| {
            if end <= signed.size { Ok(()) } else { Err(Missing::Absent("no checkpoint covers so many entries")) }
        };
        match wanted {
            Wanted::Checkpoint => Ok(signed.note.clone().into_bytes()),
            Wanted::Witnessed => {
                let witnessed = reader.witnessed().ok_or(Missing::Absent("no witnesses cosigned it"))?;
                Ok(witnessed.note.clone().into_bytes())
            }
            Wanted::Keys => Ok(Vec::new()),
            Wanted::Tile(tile) => {
                covered(tile.end())?;
                Ok(encode_tile(&reader.view().tile(tile)?))
            }
            Wanted::Entries(bundle) => {
                covered(bundle.end())?;
                Ok(reader.view().bundle(bundle)?)
            }
            Wanted::Entry(index) => {
                covered(index.saturating_add(1))?;
                Ok(reader.view().entry(index)?)
            }
            Wanted::Proof(index) => {
                covered(index.saturating_add(1))?;
                // With cosignatures, where that checkpoint covers it.
                let cosigned = reader.witnessed().filter(|witnessed| witnessed.size > index);
                self.prove(reader, index, cosigned.unwrap_or(signed))
            }
        }
    }

    fn prove(&self, reader: &Reader, index: u64, signed: &Signed) -> Result<Vec<u8>, Missing> {
        let hashes = reader.view().inclusion_at(index, signed.size)?;
        let checkpoint = self.keys.open(signed.note.as_bytes());
        let checkpoint = checkpoint.map_err(|error| Missing::Unreadable(error.to_string()))?;
        Ok(Proof::new(index, hashes, &checkpoint).to_string().into_bytes())
    }
}

impl Seen {
    /// Whether it can be given without another look.
    fn has(&self, wanted: Wanted) -> bool {
        let size = self.reader.signed().map_or(0, |signed| signed.size);
        match wanted {
            Wanted::Tile(tile) => tile.end() <= size,
            Wanted::Entries(bundle) => bundle.end() <= size,
            Wanted::Entry(index) => index < size,
            Wanted::Checkpoint | Wanted::Witnessed | Wanted::Keys | Wanted::Proof(_) => self.at.elapsed() < FRESH,
        }
    }
}

/// Answers a request below [`ROOT`].
pub(crate) async fn answer(host: &Host, parts: &Parts) -> Response<Body> {
    match respond(host, parts).await {
        Ok(response) => response,
        Err(error) => error.response(),
    }
}

async fn respond(host: &Host, parts: &Parts) -> Result<Response<Body>, GateError> {
    let audit = host.settings.audit.as_ref().ok_or(GateError::NoSuchPath)?;
    let public = audit.inner.public;
    let wanted = parts.uri.path().strip_prefix(ROOT).and_then(Wanted::of);
    // Who may not look is not told what is there.
    if !public || wanted.is_none_or(Wanted::tells) {
        admit_audit(host, parts)?;
    }
    let wanted = wanted.ok_or(GateError::NotInLedger(
        "it has checkpoint, witnessed, vkeys, entry/<index>, proof/<index>, tile/<level>/<number> and tile/entries/<number>",
    ))?;
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Err(GateError::OnlyRead);
    }
    let bytes = audit.read(wanted).await.map_err(|missing| match missing {
        Missing::Absent(why) => GateError::NotInLedger(why),
        Missing::Unreadable(why) => {
            tracing::warn!(why, "the ledger could not be read for a client");
            GateError::Unreadable
        }
    })?;
    let length = HeaderValue::from(bytes.len());
    let body = (parts.method == Method::GET).then(|| bytes.into());
    let mut response = Response::new(Body::Whole(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(wanted.kind()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(wanted.cache(public)));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    #[test]
    fn each_thing_has_one_spelling_and_what_tells_something_is_guarded() {
        for (path, tells) in [
            ("checkpoint", false),
            ("witnessed", false),
            ("vkeys", false),
            ("tile/0/000", false),
            ("tile/0/x001/067.p/5", false),
            ("tile/entries/000", true),
            ("tile/entries/000.p/1", true),
            ("entry/0", true),
            ("proof/0", true),
            ("proof/18446744073709551615", true),
        ] {
            assert_eq!(Wanted::of(path).unwrap().tells(), tells, "{path}");
        }
        for wrong in [
            "",
            "checkpoint/",
            "Checkpoint",
            "proof/",
            "entry/",
            "entry/00",
            "proof/01",
            "proof/+1",
            "proof/-1",
            "proof/18446744073709551616",
            "tile/0/0",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/entries/../../keys",
            "tile/../vkeys",
            "tile/00/000",
            "wal/00000000000000000000.seg",
            "//",
            "tile/%30/000",
        ] {
            assert_eq!(Wanted::of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_what_never_changes_is_kept_and_only_hashes_are_public() {
        let cache = |path: &str, public| Wanted::of(path).unwrap().cache(public);
        assert!(cache("tile/0/000", true).starts_with("public") && cache("tile/0/000", true).ends_with("immutable"));
        assert!(cache("tile/0/000", false).starts_with("private"));
        assert!(cache("tile/entries/000", true).starts_with("private"));
        for moving in ["checkpoint", "witnessed", "tile/0/000.p/9", "tile/entries/000.p/9", "proof/1"] {
            assert_eq!(cache(moving, true), "no-store", "{moving}");
        }
    }
}
