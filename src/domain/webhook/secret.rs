//! What deliveries are signed with, by the Standard Webhooks scheme: HMAC-SHA256 over id, time and body.

use std::fmt;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretString};

use crate::domain::{
    Env, Result,
    clock::Timestamp,
    ids::{TenantId, WebhookEndpointId},
    keyring::{KeyRing, Place, Sealed},
};

const SECRET_BYTES: usize = 32;

/// A signing secret. Does not print itself.
#[derive(Clone)]
pub struct WebhookSecret(Vec<u8>);

impl WebhookSecret {
    pub fn mint(env: &Env) -> Self {
        Self(env.bytes::<SECRET_BYTES>().to_vec())
    }

    /// As receivers configure it. The one place where it leaves: the answer to the caller who made it.
    pub fn reveal(&self) -> SecretString {
        format!("whsec_{}", STANDARD.encode(&self.0)).into()
    }

    /// One field for the secret in use and the one before, so that a rotation moves the seal as it is.
    fn place(tenant: TenantId, endpoint: WebhookEndpointId) -> Place {
        Place::of(tenant, *endpoint.as_uuid(), "webhook_secret")
    }

    pub fn sealed(&self, ring: &KeyRing, env: &Env, tenant: TenantId, endpoint: WebhookEndpointId) -> Result<Sealed> {
        ring.seal(env, Self::place(tenant, endpoint), env.now().as_micros(), &self.0)
    }

    pub fn open(ring: &KeyRing, tenant: TenantId, endpoint: WebhookEndpointId, sealed: &Sealed) -> Result<Self> {
        let opened = ring.open(Self::place(tenant, endpoint), sealed)?;
        Ok(Self(opened.expose_secret().clone()))
    }

    /// A kept secret under the key that seals now; nothing if it is already.
    pub fn rewrapped(
        ring: &KeyRing,
        env: &Env,
        tenant: TenantId,
        endpoint: WebhookEndpointId,
        sealed: &Sealed,
    ) -> Result<Option<Sealed>> {
        ring.rewrap(env, Self::place(tenant, endpoint), sealed)
    }

    /// One signature, as the header `webhook-signature` lists them.
    pub fn signature(&self, message_id: &str, at: Timestamp, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut signed = hmac::Context::with_key(&key);
        signed.update(format!("{message_id}.{}.", at.as_secs()).as_bytes());
        signed.update(body);
        format!("v1,{}", STANDARD.encode(signed.sign()))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

/// The secret before the last rotation, which signs on for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousSecret {
    pub sealed: Sealed,
    pub expires_at: Timestamp,
}

/// An endpoint's secrets, as they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSecrets {
    pub current: Sealed,
    pub previous: Option<PreviousSecret>,
}

impl EndpointSecrets {
    /// The newer one first; until a rotation's grace has ended, the older one too.
    pub fn valid_at(&self, now: Timestamp) -> impl Iterator<Item = &Sealed> {
        let previous = self.previous.as_ref().filter(|previous| previous.expires_at > now);
        std::iter::once(&self.current).chain(previous.map(|previous| &previous.sealed))
    }

    /// The same under the key that seals now; nothing if all of it is already.
    pub fn rewrapped(
        &self,
        ring: &KeyRing,
        env: &Env,
        tenant: TenantId,
        endpoint: WebhookEndpointId,
    ) -> Result<Option<Self>> {
        let rewrap = |sealed: &Sealed| WebhookSecret::rewrapped(ring, env, tenant, endpoint, sealed);
        let current = rewrap(&self.current)?;
        let previous = self.previous.as_ref().map(|previous| rewrap(&previous.sealed)).transpose()?.flatten();
        if current.is_none() && previous.is_none() {
            return Ok(None);
        }
        let mut rewrapped = self.clone();
        rewrapped.current = current.unwrap_or(rewrapped.current);
        if let Some((kept, sealed)) = rewrapped.previous.as_mut().zip(previous) {
            kept.sealed = sealed;
        }
        Ok(Some(rewrapped))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_signature_is_the_one_of_the_standard() {
        // The example of the Standard Webhooks libraries.
        let secret = WebhookSecret(STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64"));
        assert_eq!(secret.reveal().expose_secret(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let at = Timestamp::from_millis(1_614_265_330_000);
        let signature = secret.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", at, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn the_secret_before_signs_until_its_grace_ends() {
        let (env, ring) = (Env::system(), KeyRing::parse(&KeyRing::generate(&Env::system())).expect("a ring"));
        let (tenant, endpoint) = (TenantId::new(&env), WebhookEndpointId::new(&env));
        let seal = || WebhookSecret::mint(&env).sealed(&ring, &env, tenant, endpoint).expect("sealed");
        let (current, sealed, now) = (seal(), seal(), env.now());
        let previous = Some(PreviousSecret { sealed, expires_at: now.plus(Duration::from_secs(1)) });
        let secrets = EndpointSecrets { current, previous };
        assert_eq!(secrets.valid_at(now).count(), 2);
        assert_eq!(secrets.valid_at(now.plus(Duration::from_secs(1))).collect::<Vec<_>>(), [&secrets.current]);
    }

    #[test]
    fn a_secret_opens_at_its_endpoint_alone_and_prints_nothing() {
        let (env, ring) = (Env::system(), KeyRing::parse(&KeyRing::generate(&Env::system())).expect("a ring"));
        let (tenant, endpoint) = (TenantId::new(&env), WebhookEndpointId::new(&env));
        let secret = WebhookSecret::mint(&env);
        let sealed = secret.sealed(&ring, &env, tenant, endpoint).expect("sealed");
        let opened = WebhookSecret::open(&ring, tenant, endpoint, &sealed).expect("its own");
        assert_eq!(opened.reveal().expose_secret(), secret.reveal().expose_secret());
        assert!(WebhookSecret::open(&ring, tenant, WebhookEndpointId::new(&env), &sealed).is_err());
        assert_eq!(format!("{secret:?}"), "WebhookSecret");
    }
}
