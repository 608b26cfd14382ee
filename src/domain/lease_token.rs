//! A lease as its holder can prove it: what the wire calls `lease_id`.
//!
//! A slot store that lost its data cannot say whose a lease was. So the name of a lease carries what its record held,
//! sealed under a key of the service's own: whoever presents it proves that the service gave this lease to this call of
//! this tenant, and the store takes it in again. Nobody can make one, move it to another call, or turn a sandbox lease
//! into a live one. It proves that there was a lease, never that it lives: only the slot store knows that.

use std::{fmt, str::FromStr};

use aws_lc_rs::{constant_time, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::{
    ids::{CallId, LeaseId, SessionId, TenantId},
    lease::Direction,
    violations::Fault,
};

/// Lease 32, session 16, fence 8, flags 1.
const CLAIM_BYTES: usize = 57;
/// Half of HMAC-SHA256: 128 bits, which is what one guess is worth (RFC 2104 section 5).
const SEAL_BYTES: usize = 16;
const OUTBOUND: u8 = 1;
const SANDBOX: u8 = 2;
/// Says what the derived key and what it seals are for, so that neither serves for anything else.
const KEY_PURPOSE: &[u8] = b"voxgate lease token key v1";
const SEAL_PURPOSE: &[u8] = b"voxgate lease token v1";

/// What a lease is, apart from how long it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseClaim {
    pub lease: LeaseId,
    pub session: SessionId,
    pub fence: i64,
    pub direction: Direction,
    /// On which side of the sandbox fence the call is.
    pub sandbox: bool,
}

impl LeaseClaim {
    fn to_bytes(self) -> [u8; CLAIM_BYTES] {
        let mut bytes = [0; CLAIM_BYTES];
        bytes[..32].copy_from_slice(&self.lease.to_bytes());
        bytes[32..48].copy_from_slice(self.session.as_uuid().as_bytes());
        bytes[48..56].copy_from_slice(&self.fence.to_be_bytes());
        bytes[56] = match self.direction {
            Direction::Inbound => 0,
            Direction::Outbound => OUTBOUND,
        } | if self.sandbox { SANDBOX } else { 0 };
        bytes
    }

    /// Nothing for flags that this release does not know.
    fn from_bytes(bytes: &[u8; CLAIM_BYTES]) -> Option<Self> {
        let (lease, rest) = bytes.split_first_chunk::<32>()?;
        let (session, rest) = rest.split_first_chunk::<16>()?;
        let (fence, flags) = rest.split_first_chunk::<8>()?;
        let flags = *flags.first()?;
        (flags & !(OUTBOUND | SANDBOX) == 0).then(|| Self {
            lease: LeaseId::from_bytes(*lease),
            session: SessionId::from_uuid(Uuid::from_bytes(*session)),
            fence: i64::from_be_bytes(*fence),
            direction: if flags & OUTBOUND == 0 { Direction::Inbound } else { Direction::Outbound },
            sandbox: flags & SANDBOX != 0,
        })
    }
}

/// A claim with its seal, as it travels. Whether the seal is ours, [`LeaseSigner::verify`] says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LeaseToken {
    claim: LeaseClaim,
    seal: [u8; SEAL_BYTES],
}

impl LeaseToken {
    /// What it says, be it true or not: good for naming the lease, and for nothing else.
    pub const fn claimed(&self) -> &LeaseClaim {
        &self.claim
    }
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; CLAIM_BYTES + SEAL_BYTES];
        bytes[..CLAIM_BYTES].copy_from_slice(&self.claim.to_bytes());
        bytes[CLAIM_BYTES..].copy_from_slice(&self.seal);
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// The seal is no secret of a person's, but no log needs it.
impl fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.claim.fmt(f)
    }
}

impl FromStr for LeaseToken {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let parse = || {
            let mut bytes = [0; CLAIM_BYTES + SEAL_BYTES];
            let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
            let (claim, seal) = bytes.split_first_chunk::<CLAIM_BYTES>()?;
            let seal = seal.try_into().ok()?;
            (length == bytes.len()).then_some(Self { claim: LeaseClaim::from_bytes(claim)?, seal })
        };
        parse().ok_or_else(|| Fault::new("must be a lease id as AcquireSlot returned it"))
    }
}

/// Makes and verifies lease tokens.
#[derive(Clone)]
pub struct LeaseSigner {
    key: hmac::Key,
}

impl fmt::Debug for LeaseSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseSigner").finish_non_exhaustive()
    }
}

impl LeaseSigner {
    /// Under a key of its own that is derived from `secret`, which all replicas share.
    pub fn derived_from(secret: &[u8]) -> Self {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), KEY_PURPOSE);
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()) }
    }

    /// The same claim is the same token, however often it is told.
    pub fn sign(&self, tenant: TenantId, call: &CallId, claim: LeaseClaim) -> LeaseToken {
        LeaseToken { claim, seal: self.seal(tenant, call, claim) }
    }

    /// The claim, if the service has made it for this call of this tenant.
    pub fn verify(&self, tenant: TenantId, call: &CallId, token: &LeaseToken) -> Option<LeaseClaim> {
        let seal = self.seal(tenant, call, token.claim);
        constant_time::verify_slices_are_equal(&seal, &token.seal).is_ok().then_some(token.claim)
    }

    fn seal(&self, tenant: TenantId, call: &CallId, claim: LeaseClaim) -> [u8; SEAL_BYTES] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(SEAL_PURPOSE);
        context.update(tenant.as_uuid().as_bytes());
        context.update(&claim.to_bytes());
        // Last, because it alone is of no fixed length.
        context.update(call.as_str().as_bytes());
        let tag = context.sign();
        let mut seal = [0; SEAL_BYTES];
        seal.copy_from_slice(&tag.as_ref()[..SEAL_BYTES]);
        seal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Env, ids::VoiceAgentId};

    fn claim(env: &Env) -> LeaseClaim {
        LeaseClaim {
            lease: LeaseId::new(env, VoiceAgentId::new(env)),
            session: SessionId::new(env),
            fence: 7,
            direction: Direction::Outbound,
            sandbox: true,
        }
    }

    fn call(text: &str) -> CallId {
        text.parse().expect("a call id")
    }

    #[test]
    fn a_token_reads_back_as_what_it_was_made_of() {
        let (env, signer) = (Env::system(), LeaseSigner::derived_from(b"secret"));
        let (tenant, own) = (TenantId::new(&env), claim(&env));
        for direction in [Direction::Inbound, Direction::Outbound] {
            for sandbox in [false, true] {
                let own = LeaseClaim { direction, sandbox, ..own };
                let token = signer.sign(tenant, &call("a"), own);
                let read: LeaseToken = token.to_string().parse().expect("as it was printed");
                assert_eq!(signer.verify(tenant, &call("a"), &read), Some(own));
                assert_eq!(signer.sign(tenant, &call("a"), own).to_string(), token.to_string());
            }
        }
    }

    #[test]
    fn a_token_of_another_key_call_tenant_or_claim_is_not_ours() {
        let (env, signer) = (Env::system(), LeaseSigner::derived_from(b"secret"));
        let (tenant, own) = (TenantId::new(&env), claim(&env));
        let token = signer.sign(tenant, &call("a"), own);
        assert_eq!(LeaseSigner::derived_from(b"another").verify(tenant, &call("a"), &token), None);
        assert_eq!(signer.verify(TenantId::new(&env), &call("a"), &token), None);
        assert_eq!(signer.verify(tenant, &call("b"), &token), None);
        let changed = [
            LeaseClaim { lease: LeaseId::new(&env, own.lease.agent()), ..own },
            LeaseClaim { session: SessionId::new(&env), ..own },
            LeaseClaim { fence: 8, ..own },
            LeaseClaim { direction: Direction::Inbound, ..own },
            LeaseClaim { sandbox: false, ..own },
        ];
        for claim in changed {
            let forged = LeaseToken { claim, ..token };
            assert_eq!(signer.verify(tenant, &call("a"), &forged), None, "{claim:?}");
        }
    }

    #[test]
    fn every_flipped_bit_is_malformed_or_not_ours() {
        let (env, signer) = (Env::system(), LeaseSigner::derived_from(b"secret"));
        let tenant = TenantId::new(&env);
        let good = URL_SAFE_NO_PAD.decode(signer.sign(tenant, &call("a"), claim(&env)).to_string()).expect("base64");
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match URL_SAFE_NO_PAD.encode(bytes).parse::<LeaseToken>() {
                Ok(token) => assert_eq!(signer.verify(tenant, &call("a"), &token), None, "bit {bit}"),
                Err(_) => assert_eq!(bit / 8, CLAIM_BYTES - 1, "only unknown flags are malformed, not bit {bit}"),
            }
        }
    }

    #[test]
    fn what_is_no_token_is_malformed() {
        let (env, signer) = (Env::system(), LeaseSigner::derived_from(b"secret"));
        let good = signer.sign(TenantId::new(&env), &call("a"), claim(&env)).to_string();
        assert_eq!(good.len(), 98);
        // One lease has one name: the bits that the last letter does not need are zero.
        let last = good.as_bytes()[97];
        let unused_bits = format!("{}{}", &good[..97], char::from(last + 1));
        let id = LeaseId::new(&env, VoiceAgentId::new(&env)).to_string();
        let (longer, padded, huge) = (format!("{good}A"), format!("{good}="), "A".repeat(10_000));
        for wrong in ["", "x", "é", &good[..97], &longer, &padded, &huge, &id, &unused_bits] {
            assert!(wrong.parse::<LeaseToken>().is_err(), "{wrong:?}");
        }
    }
}
