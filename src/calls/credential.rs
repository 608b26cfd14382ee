//! Whether a credential that opened a stream, or a wait, opens anything still: what was revoked, has expired or was
//! rotated away does not keep what it opened before.

use super::Calls;
use crate::domain::{Error, Result, clock::Timestamp, error::CredentialFault, hash::Sha256, principal::Principal};

#[derive(Debug, Clone, Copy)]
pub(super) enum Credential {
    /// By the hash of the secret that was presented.
    Key(Sha256),
    /// Who bears it is configuration and cannot change while the process lasts; that it expires can.
    Certificate { not_after: Timestamp },
}

impl Credential {
    /// Nothing for a token: what it opens, its session closes.
    pub(super) const fn of(principal: &Principal) -> Option<Self> {
        match principal {
            Principal::Key(bearer) => Some(Self::Key(bearer.secret)),
            Principal::Mesh(service) => Some(Self::Certificate { not_after: service.not_after }),
            Principal::Call(_) | Principal::Connection(_) => None,
        }
    }
}

impl Calls {
    /// While the database is away nothing is known against a key.
    pub(super) async fn check_credential(&self, credential: Credential) -> Result<()> {
        let secret = match credential {
            Credential::Key(secret) => secret,
            Credential::Certificate { not_after } if not_after < self.env.now() => {
                return Err(Error::Unauthenticated(CredentialFault::Expired));
            }
            Credential::Certificate { .. } => return Ok(()),
        };
        let fault = match self.tenants.key_by_hash(secret).await {
            Ok(Some(key)) => key.check(secret, self.env.now()),
            Ok(None) => Err(CredentialFault::Invalid),
            Err(Error::Unavailable(..)) => Ok(()),
            Err(error) => return Err(error),
        };
        fault.map_err(Error::Unauthenticated)
    }
}
