//! Whom the ledger's records are about. A record names a principal by a pseudonym, and commits to what it sends, both under a
//! secret of that principal. Once the secret is erased, nothing in the ledger leads back to the principal, and a guess at what it
//! sent cannot be tried.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use model::{Blame, Principal};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use stdx::random::NoRandomness;
use store::{Store, StoreError};

/// Bytes of a secret.
const SECRET: usize = 32;
/// Bytes of a pseudonym that are shown.
const SHOWN: usize = 12;

/// A principal as the ledger knows it.
pub struct Subject {
    name: String,
    key: hmac::Key,
    seal: LessSafeKey,
}

/// There is no key to name a principal with.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// The store failed.
    #[error("the key under which the ledger names the caller cannot be kept")]
    Store(#[from] StoreError),
    /// No randomness.
    #[error("no key can be made under which the ledger names the caller")]
    NoRandomness(#[from] NoRandomness),
    /// The content of a call could not be encrypted.
    #[error("the content of a call cannot be encrypted")]
    Seal,
    /// What is kept is none.
    #[error("the key of {0} is damaged; restore a backup of the database")]
    Damaged(Principal),
}

impl SubjectError {
    /// The host's.
    pub fn blame(&self) -> Blame {
        Blame::Host
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Subject {
    pub(crate) fn new(secret: &str) -> Option<Self> {
        let bytes = unhex(secret).filter(|bytes| bytes.len() == SECRET)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        let tag = hmac::sign(&key, b"staithe ledger: name");
        let name = format!("p:{}", hex(tag.as_ref().get(..SHOWN).unwrap_or_default()));
        let seal = hmac::sign(&key, b"staithe ledger: key of kept content");
        let seal = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, seal.as_ref()).ok()?);
        Some(Self { name, key, seal })
    }

    /// The pseudonym.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A commitment to `content` in the place that `place` names, hexadecimal: equal contents in two places have different ones.
    pub fn commit(&self, place: &str, content: &[u8]) -> String {
        let mut tag = hmac::Context::with_key(&self.key);
        tag.update(b"staithe ledger: content\0");
        tag.update(place.as_bytes());
        tag.update(b"\0");
        tag.update(content);
        hex(tag.sign().as_ref())
    }

    /// Content that is kept in `place`, encrypted (AES-256-GCM-SIV): a nonce, the text, a tag. It cannot be read once the
    /// principal's secret is erased.
    pub fn seal(&self, place: &str, content: &[u8]) -> Result<Vec<u8>, SubjectError> {
        let nonce = stdx::random::bytes::<NONCE_LEN>()?;
        let mut sealed = content.to_vec();
        let aad = Aad::from(place.as_bytes());
        let done = self.seal.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed);
        // It fails only for contents of 64 GiB.
        done.map_err(|_| SubjectError::Seal)?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// What [`Self::seal`] made in this place. `None` if it was not made so.
    pub fn unseal(&self, place: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut content = rest.to_vec();
        let len = self.seal.open_in_place(nonce, Aad::from(place.as_bytes()), &mut content).ok()?.len();
        content.truncate(len);
        Some(content)
    }
}

/// The subjects of a host. Clones share everything.
#[derive(Clone)]
pub struct Subjects {
    store: Store,
    known: Arc<RwLock<HashMap<Principal, Arc<Subject>>>>,
}

impl fmt::Debug for Subjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subjects").finish_non_exhaustive()
    }
}

impl Subjects {
    /// Reads those that there are.
    pub async fn open(store: Store) -> Result<Self, SubjectError> {
        let mut known = HashMap::new();
        for (principal, secret) in store.subjects().await? {
            let subject = Subject::new(&secret).ok_or_else(|| SubjectError::Damaged(principal.clone()))?;
            known.insert(principal, Arc::new(subject));
        }
        Ok(Self { store, known: Arc::new(RwLock::new(known)) })
    }

    /// The subject of a principal, if it has one already.
    pub fn known(&self, principal: &Principal) -> Option<Arc<Subject>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(principal).cloned()
    }

    /// The subject of a principal. Its key is durable when this returns.
    pub async fn of(&self, principal: &Principal) -> Result<Arc<Subject>, SubjectError> {
        if let Some(known) = self.known(principal) {
            return Ok(known);
        }
        let secret = hex(&stdx::random::bytes::<SECRET>()?);
        let kept = self.store.make_subject(principal, &secret, stdx::clock::unix_ms()).await?;
        let subject = Arc::new(Subject::new(&kept).ok_or_else(|| SubjectError::Damaged(principal.clone()))?);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        Ok(known.entry(principal.clone()).or_insert(subject).clone())
    }

    /// Forgets the key of a principal for good. Whether there was one. What it does from then on is under another. Where this fails
    /// the key may be forgotten, and copies of it be left in the file of the database: doing it again removes them.
    pub async fn erase(&self, principal: &Principal) -> Result<bool, SubjectError> {
        let erased = self.forget(principal).await?;
        self.scrub().await?;
        Ok(erased)
    }

    /// The first half: the key is forgotten, and copies of it may be left in the file of the database until [`Self::scrub`].
    pub async fn forget(&self, principal: &Principal) -> Result<bool, SubjectError> {
        let erased = self.store.erase_subject(principal).await?;
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(principal);
        Ok(erased)
    }

    /// Leaves nothing in the file of the database of keys that were forgotten before.
    pub async fn scrub(&self) -> Result<(), SubjectError> {
        Ok(self.store.scrub().await?)
    }

    /// Every principal that has a pseudonym now, with it.
    pub fn all(&self) -> Vec<(Principal, String)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(principal, subject)| (principal.clone(), subject.name.clone())).collect()
    }

    /// Who can read content that is kept in `place`, and what `read` makes of it. Nobody, where its key is erased.
    pub fn first<T>(&self, read: impl Fn(&Subject) -> Option<T>) -> Option<(Principal, T)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().find_map(|(principal, subject)| Some((principal.clone(), read(subject)?)))
    }

    /// Whom a pseudonym stands for, if that is not erased.
    pub fn whose(&self, name: &str) -> Option<Principal> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(_, subject)| subject.name == name).map(|(principal, _)| principal.clone())
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::Location;

    async fn store(dir: &tempfile::TempDir) -> Store {
        Store::open(Location::Sqlite(dir.path().join("db"))).await.unwrap()
    }

    #[tokio::test]
    async fn a_principal_keeps_its_name_until_it_is_erased() {
        let dir = tempfile::tempdir().unwrap();
        let (ann, bob): (Principal, Principal) = ("ann".parse().unwrap(), "bob".parse().unwrap());
        let subjects = Subjects::open(store(&dir).await).await.unwrap();
        let first = subjects.of(&ann).await.unwrap();
        assert_eq!(subjects.of(&ann).await.unwrap().name(), first.name());
        assert_ne!(subjects.of(&bob).await.unwrap().name(), first.name());
        assert!(!first.name().contains("ann") && first.name().len() == 26, "{}", first.name());
        let again = Subjects::open(store(&dir).await).await.unwrap();
        assert_eq!(again.known(&ann).unwrap().name(), first.name());
        assert_eq!(again.whose(first.name()), Some(ann.clone()));
        assert_eq!(again.known(&ann).unwrap().commit("1-1", b"{}"), first.commit("1-1", b"{}"));

        assert!(again.erase(&ann).await.unwrap() && !again.erase(&ann).await.unwrap());
        assert_eq!(again.whose(first.name()), None);
        assert_ne!(again.of(&ann).await.unwrap().name(), first.name(), "nobody leads back");
    }

    #[tokio::test]
    async fn two_daemons_agree_on_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let ann: Principal = "ann".parse().unwrap();
        let (one, two) = (store(&dir).await, store(&dir).await);
        let (one, two) = (Subjects::open(one).await.unwrap(), Subjects::open(two).await.unwrap());
        let (a, b) = tokio::join!(one.of(&ann), two.of(&ann));
        assert_eq!(a.unwrap().name(), b.unwrap().name());
    }

    #[test]
    fn sealed_content_opens_in_its_place_for_its_subject_alone() {
        let (one, two) = (Subject::new(&"ab".repeat(32)).unwrap(), Subject::new(&"ac".repeat(32)).unwrap());
        let sealed = one.seal("1-1 args", b"{\"path\":\"/a\"}").unwrap();
        assert!(!sealed.windows(4).any(|bytes| bytes == b"path"));
        assert_eq!(one.unseal("1-1 args", &sealed).unwrap(), b"{\"path\":\"/a\"}");
        assert_ne!(one.seal("1-1 args", b"{\"path\":\"/a\"}").unwrap(), sealed);
        assert_eq!((one.unseal("1-2 args", &sealed), two.unseal("1-1 args", &sealed)), (None, None));
        for cut in 0..sealed.len() {
            assert_eq!(one.unseal("1-1 args", &sealed[..cut]), None, "{cut}");
        }
        assert_eq!(one.unseal("x", &one.seal("x", b"").unwrap()).unwrap(), b"");
    }

    #[test]
    fn a_commitment_is_of_its_place_and_its_content() {
        let (one, two) = (Subject::new(&"ab".repeat(32)).unwrap(), Subject::new(&"ac".repeat(32)).unwrap());
        let made = one.commit("1-1", b"{}");
        assert_eq!(made.len(), 64);
        for other in
            [one.commit("1-2", b"{}"), one.commit("1-1", b"[]"), two.commit("1-1", b"{}"), one.commit("1-1\0{}", b"")]
        {
            assert_ne!(made, other);
        }
        for wrong in ["", "ab", &"zz".repeat(32), &"ab".repeat(33)] {
            assert!(Subject::new(wrong).is_none(), "{wrong}");
        }
    }
}
