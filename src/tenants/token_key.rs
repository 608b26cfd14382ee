//! The key that signs tokens, and how it is kept: sealed by the key ring, one for the whole installation.

use std::fmt;

use secrecy::ExposeSecret as _;
use uuid::Uuid;

use crate::domain::{
    Env, Result,
    hash::hex,
    keyring::{KeyRing, Place, Sealed},
};

/// The key that signs, and its public name.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenKey {
    pub kid: String,
    pub secret: Vec<u8>,
}

impl TokenKey {
    /// 256 random bits (RFC 7518 section 3.2 asks for at least the hash's size).
    pub fn generate(env: &Env) -> Self {
        Self { kid: hex(&env.bytes::<4>()), secret: env.bytes::<32>().to_vec() }
    }

    pub fn sealed(&self, ring: &KeyRing, env: &Env) -> Result<SealedTokenKey> {
        let sealed = ring.seal(env, SealedTokenKey::PLACE, 1, &self.secret)?;
        Ok(SealedTokenKey { kid: self.kid.clone(), sealed })
    }
}

/// The same as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedTokenKey {
    pub kid: String,
    pub sealed: Sealed,
}

impl SealedTokenKey {
    /// It belongs to the installation: to no tenant and no row.
    const PLACE: Place = Place { tenant: Uuid::nil(), row: Uuid::nil(), field: "token_key" };

    pub fn open(&self, ring: &KeyRing) -> Result<TokenKey> {
        let secret = ring.open(Self::PLACE, &self.sealed)?.expose_secret().clone();
        Ok(TokenKey { kid: self.kid.clone(), secret })
    }

    /// Under the key that seals now; nothing if it is already.
    pub fn rewrapped(&self, ring: &KeyRing, env: &Env) -> Result<Option<Sealed>> {
        ring.rewrap(env, Self::PLACE, &self.sealed)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}
