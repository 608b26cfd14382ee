//! Secrets at rest: sealed with AES-256-GCM under a ring of keys, and bound to the place where they are kept.
//!
//! A seal names its key, so keys may be added and old ones retired: the first key of the ring seals, every key of it opens.
//! A ring is read when a replica starts. What is authenticated beside the secret is `tenant|row|field|version`: a sealed
//! secret that is copied to another tenant's row, to another row or to another field does not open there.
//!
//! The version is the seal's own. Whoever can write the database can put an earlier seal of the very same place back.
//!
//! Absent on purpose: reading keys from a vendor's service. A file or a variable is what every such service can fill.

use std::{collections::HashSet, fmt};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use uuid::Uuid;

use super::{
    Env, Error, Result,
    ids::TenantId,
    violations::{Fault, Violations},
};

const KEY_BYTES: usize = 32;
const KEY_ID_MAX_CHARS: usize = 32;
/// Keys that one ring may hold: the one in use, the one before, and then some.
const KEYS_MAX: usize = 16;
/// The first byte of a seal: this layout, and AES-256-GCM.
const FORMAT: u8 = 1;

/// Where a secret is kept.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Nil for what belongs to the installation.
    pub tenant: Uuid,
    pub row: Uuid,
    pub field: &'static str,
}

impl Place {
    pub fn of(tenant: TenantId, row: Uuid, field: &'static str) -> Self {
        Self { tenant: *tenant.as_uuid(), row, field }
    }

    fn authenticated(self, version: i64) -> Aad<String> {
        Aad::from(format!("{}|{}|{}|{version}", self.tenant, self.row, self.field))
    }
}

/// A sealed secret, as it is kept: format, key id and its length, version, nonce, ciphertext and tag.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its parts, unless it is no seal of ours.
    fn parts(&self) -> Option<Parts<'_>> {
        let (&[format, length], rest) = self.0.split_first_chunk()?;
        let (key_id, rest) = rest.split_at_checked(length.into())?;
        let (version, rest) = rest.split_first_chunk()?;
        let (nonce, ciphertext) = rest.split_first_chunk()?;
        let key_id = std::str::from_utf8(key_id).ok()?;
        (format == FORMAT).then_some(Parts { key_id, version: i64::from_be_bytes(*version), nonce: *nonce, ciphertext })
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("key", &self.parts().map(|parts| parts.key_id)).finish_non_exhaustive()
    }
}

/// Walks past all secrets after which rewrapping gives up and says how far it came.
const WALKS_MAX: usize = 20;

/// What became of sealed secrets that were to come under the key that seals now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewrapped {
    pub rewrapped: u64,
    /// Secrets that do not open: made for another place, changed, or under a key that the ring lacks. They are left alone.
    pub unopened: u64,
    /// Whether the last walk found nothing left.
    pub done: bool,
}

impl Rewrapped {
    /// Walks past all secrets until a walk finds nothing to do. Each answers how many it rewrapped, and how many it could not
    /// open.
    pub async fn by_walks(walk: impl AsyncFn() -> Result<(u64, u64)>) -> Result<Self> {
        let mut all = Self::default();
        for _ in 0..WALKS_MAX {
            let (found, unopened) = walk().await?;
            all.rewrapped += found;
            all.unopened = unopened;
            if found == 0 {
                all.done = true;
                break;
            }
        }
        Ok(all)
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            rewrapped: self.rewrapped + other.rewrapped,
            unopened: self.unopened + other.unopened,
            done: self.done && other.done,
        }
    }
}

struct Parts<'s> {
    key_id: &'s str,
    version: i64,
    nonce: [u8; NONCE_LEN],
    ciphertext: &'s [u8],
}

struct Key {
    id: String,
    key: LessSafeKey,
}

/// The keys that open, of which the first seals.
pub struct KeyRing(Vec<Key>);

impl KeyRing {
    /// A ring of one new key, as text that [`KeyRing::parse`] reads.
    pub fn generate(env: &Env) -> SecretString {
        let key = STANDARD.encode(env.bytes::<KEY_BYTES>());
        format!("k{}:{key}\n", env.now().as_secs()).into()
    }

    /// Reads `id:key` by lines or commas; `#` begins a comment. The id is 1 to 32 letters, digits, `-` or `_`, the key
    /// 32 bytes in base64 (`openssl rand -base64 32`).
    pub fn parse(text: &SecretString) -> Result<Self, Violations> {
        let (mut keys, mut faults, mut seen) = (Vec::new(), Violations::default(), HashSet::new());
        let entries = text.expose_secret().lines().map(|line| line.split('#').next().unwrap_or_default());
        for (index, entry) in
            entries.flat_map(|line| line.split(',')).map(str::trim).filter(|it| !it.is_empty()).enumerate()
        {
            let parsed = parse_key(entry).and_then(|key| match seen.insert(key.id.clone()) {
                true => Ok(key),
                false => Err(Fault::new("has the id of an earlier key")),
            });
            keys.extend(faults.take(&format!("key_ring[{index}]"), parsed));
        }
        if keys.is_empty() || keys.len() > KEYS_MAX {
            faults.add("key_ring", Fault::new(format!("must have 1 to {KEYS_MAX} keys, one a line, as id:base64")));
        }
        faults.into_result(Some(Self(keys)))
    }

    /// Seals `secret` for `place`. `version` tells apart what the same place held at different times.
    pub fn seal(&self, env: &Env, place: Place, version: i64, secret: &[u8]) -> Result<Sealed> {
        let Key { id, key } = self.0.first().ok_or_else(|| Error::internal("the key ring is empty"))?;
        let nonce: [u8; NONCE_LEN] = env.bytes();
        let length = u8::try_from(id.len()).map_err(Error::internal)?;
        let mut sealed = vec![FORMAT, length];
        sealed.extend_from_slice(id.as_bytes());
        sealed.extend_from_slice(&version.to_be_bytes());
        sealed.extend_from_slice(&nonce);
        let mut ciphertext = secret.to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            place.authenticated(version),
            &mut ciphertext,
        )
        .map_err(|_| Error::internal("a secret could not be sealed"))?;
        sealed.extend_from_slice(&ciphertext);
        Ok(Sealed(sealed))
    }

    /// Opens what was sealed for this very place.
    pub fn open(&self, place: Place, sealed: &Sealed) -> Result<SecretBox<Vec<u8>>> {
        let refused = |why: &str| Error::internal(format!("the sealed {} of row {} {why}", place.field, place.row));
        let parts = sealed.parts().ok_or_else(|| refused("is no seal"))?;
        let Key { key, .. } = self
            .0
            .iter()
            .find(|key| key.id == parts.key_id)
            .ok_or_else(|| refused("needs a key that the key ring lacks"))?;
        let mut buffer = parts.ciphertext.to_vec();
        let nonce = Nonce::assume_unique_for_key(parts.nonce);
        let length = key
            .open_in_place(nonce, place.authenticated(parts.version), &mut buffer)
            .map_err(|_| refused("was made for another place, or was changed"))?
            .len();
        buffer.truncate(length);
        Ok(SecretBox::new(Box::new(buffer)))
    }

    /// The same as text.
    pub fn open_text(&self, place: Place, sealed: &Sealed) -> Result<SecretString> {
        let bytes = self.open(place, sealed)?;
        let text = std::str::from_utf8(bytes.expose_secret())
            .map_err(|_| Error::internal(format!("the sealed {} of row {} is not text", place.field, place.row)))?;
        Ok(text.to_owned().into())
    }

    /// The same secret under the key that seals now; nothing if it is already.
    pub fn rewrap(&self, env: &Env, place: Place, sealed: &Sealed) -> Result<Option<Sealed>> {
        let parts = sealed.parts();
        if parts.as_ref().zip(self.0.first()).is_some_and(|(parts, current)| parts.key_id == current.id) {
            return Ok(None);
        }
        let secret = self.open(place, sealed)?;
        let version = parts.map_or(0, |parts| parts.version);
        self.seal(env, place, version, secret.expose_secret()).map(Some)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

fn parse_key(entry: &str) -> Result<Key, Fault> {
    // Never the entry itself: it may be a key without an id.
    let (id, encoded) = entry.split_once(':').ok_or_else(|| Fault::new("must be id:base64"))?;
    let visible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if id.is_empty() || id.len() > KEY_ID_MAX_CHARS || !id.chars().all(visible) {
        return Err(Fault::new(format!("must have an id of 1 to {KEY_ID_MAX_CHARS} letters, digits, - or _")));
    }
    let unusable = || Fault::new(format!("must have a key of {KEY_BYTES} bytes in base64"));
    let bytes = STANDARD.decode(encoded.trim()).map_err(|_| unusable())?;
    let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| unusable())?;
    Ok(Key { id: id.to_owned(), key: LessSafeKey::new(key) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(ids: &[&str]) -> KeyRing {
        let line = |id: &&str| format!("{id}:{}", STANDARD.encode([id.len().try_into().unwrap_or(0u8); KEY_BYTES]));
        KeyRing::parse(&ids.iter().map(line).collect::<Vec<_>>().join("\n").into()).expect("a ring")
    }

    fn place() -> Place {
        Place { tenant: Uuid::from_u128(1), row: Uuid::from_u128(2), field: "auth_token" }
    }

    #[test]
    fn a_secret_opens_at_its_place_and_nowhere_else() {
        let (env, ring) = (Env::system(), ring(&["a"]));
        let sealed = ring.seal(&env, place(), 3, b"hush").expect("sealed");
        assert!(!sealed.as_bytes().windows(4).any(|part| part == b"hush"));
        assert_eq!(ring.open_text(place(), &sealed).expect("opened").expose_secret(), "hush");
        let elsewhere = [
            Place { tenant: Uuid::from_u128(9), ..place() },
            Place { row: Uuid::from_u128(9), ..place() },
            Place { field: "secret", ..place() },
        ];
        for place in elsewhere {
            assert!(ring.open(place, &sealed).is_err(), "{place:?}");
        }
    }

    #[test]
    fn a_seal_that_was_touched_anywhere_does_not_open() {
        let (env, ring) = (Env::system(), ring(&["a"]));
        let sealed = ring.seal(&env, place(), 3, b"hush").expect("sealed");
        for index in 0..sealed.0.len() {
            let mut touched = sealed.clone();
            touched.0[index] ^= 1;
            assert!(ring.open(place(), &touched).is_err(), "byte {index}");
            let cut = Sealed(sealed.0[..index].to_vec());
            assert!(ring.open(place(), &cut).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn a_rewrapped_secret_needs_the_old_key_no_longer() {
        let env = Env::system();
        let sealed = ring(&["old"]).seal(&env, place(), 3, b"hush").expect("sealed");
        let both = ring(&["newer", "old"]);
        let rewrapped = both.rewrap(&env, place(), &sealed).expect("opened").expect("another key");
        assert_eq!(both.rewrap(&env, place(), &rewrapped).expect("opened"), None);
        assert_eq!(ring(&["newer"]).open_text(place(), &rewrapped).expect("opened").expose_secret(), "hush");
        let lacking = ring(&["newer"]).open(place(), &sealed).expect_err("the key is gone");
        assert!(std::error::Error::source(&lacking).expect("a cause").to_string().contains("lacks"));
    }

    #[test]
    fn every_unusable_key_is_named_and_none_is_shown() {
        let key = STANDARD.encode([7; KEY_BYTES]);
        let text = format!("ok:{key} # the first\n\nok:{key},short:AAAA\nno id:{key}\n{key}\n");
        let faults = KeyRing::parse(&text.into()).expect_err("four faults");
        let named: Vec<_> = faults.iter().map(|fault| fault.field.clone()).collect();
        assert_eq!(named, ["key_ring[1]", "key_ring[2]", "key_ring[3]", "key_ring[4]"]);
        assert!(!faults.summary().contains(&key));
        assert!(KeyRing::parse(&" \n# nothing\n".to_owned().into()).is_err());
        let made = KeyRing::generate(&Env::system());
        assert!(KeyRing::parse(&made).is_ok());
    }
}
