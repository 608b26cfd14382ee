//! Identities: a tenant's id is not a call's id, and the compiler knows it.
//!
//! Ids that we mint are UUIDs v7, some with a prefix that says what they name. Ids that a caller chooses
//! ([`CallId`], [`NodeId`]) are bounded, printable text.

use std::{fmt, str::FromStr};

use uuid::Uuid;

use super::{clock::Env, violations::Fault};

/// Kept in JSON as it is printed.
macro_rules! in_json_as_printed {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(|fault: Fault| serde::de::Error::custom(fault.description))
            }
        }
    };
}

pub(super) use in_json_as_printed;

/// Declares an id that we mint: a UUID, shown behind `$prefix`.
macro_rules! minted {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            pub fn new(env: &Env) -> Self {
                Self(env.uuid())
            }

            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Fault;

            /// Accepts exactly what is printed: lower-case, hyphenated.
            fn from_str(text: &str) -> Result<Self, Fault> {
                let unknown = || Fault::new(concat!("must be an id of the form ", $prefix, "<uuid>"));
                let uuid = text.strip_prefix($prefix).ok_or_else(unknown)?;
                let parsed = Uuid::try_parse(uuid).map_err(|_| unknown())?;
                if parsed.hyphenated().to_string() == uuid { Ok(Self(parsed)) } else { Err(unknown()) }
            }
        }

        in_json_as_printed!($name);
    };
}

minted!(
    /// The boundary of isolation and billing.
    TenantId, ""
);
minted!(
    /// A configured routing alias.
    VoiceAgentId, ""
);
minted!(
    /// An API key's row, never its secret.
    ApiKeyId, ""
);
minted!(
    /// Our record of one live conversation on a call.
    SessionId, "ses_"
);
minted!(
    /// One verb on its way to one call.
    OperationId, "op_"
);
minted!(
    /// Something that happened.
    EventId, "evt_"
);
minted!(
    /// What somebody did, or tried to.
    AuditEntryId, "aud_"
);
minted!(
    /// Where a tenant wants its events posted.
    WebhookEndpointId, ""
);
minted!(
    /// An event on its way to an endpoint, or given up.
    DeliveryId, ""
);

/// Declares an id that callers choose: 1 to `$max` visible ASCII characters.
macro_rules! chosen {
    ($(#[$doc:meta])* $name:ident, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            pub const MAX_CHARS: usize = $max;

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Fault;

            fn from_str(text: &str) -> Result<Self, Fault> {
                if text.is_empty() {
                    return Err(Fault::required());
                }
                if text.len() > $max || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(Fault::new(concat!("must be 1 to ", stringify!($max), " visible ASCII characters")));
                }
                Ok(Self(text.into()))
            }
        }

        in_json_as_printed!($name);
    };
}

chosen!(
    /// The telephony platform's name of a call.
    CallId, 128
);
impl CallId {
    /// Of a session that no softswitch asked for.
    pub fn minted(env: &Env) -> Self {
        Self(format!("direct-{}", env.uuid()).into())
    }
}

chosen!(
    /// A media node's name of itself.
    NodeId, 128
);
chosen!(
    /// The caller's name of one attempt at a verb.
    IdempotencyKey, 128
);

/// A lease's name. It carries its agent, so that a renewal or a release knows where to look without a read.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId {
    agent: VoiceAgentId,
    serial: Uuid,
}

impl LeaseId {
    pub fn new(env: &Env, agent: VoiceAgentId) -> Self {
        Self { agent, serial: env.uuid() }
    }

    pub const fn agent(&self) -> VoiceAgentId {
        self.agent
    }

    /// The agent's 16 bytes, then 16 of its own: less than half of the printed form.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(self.agent.0.as_bytes());
        bytes[16..].copy_from_slice(self.serial.as_bytes());
        bytes
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let (mut agent, mut serial) = ([0; 16], [0; 16]);
        agent.copy_from_slice(&bytes[..16]);
        serial.copy_from_slice(&bytes[16..]);
        Self { agent: VoiceAgentId(Uuid::from_bytes(agent)), serial: Uuid::from_bytes(serial) }
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lse_{}{}", self.agent.0.simple(), self.serial.simple())
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LeaseId {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let parse = || {
            let digits = text.strip_prefix("lse_")?;
            let (agent, serial) = (digits.get(..32)?, digits.get(32..)?);
            let id = Self { agent: VoiceAgentId(Uuid::try_parse(agent).ok()?), serial: Uuid::try_parse(serial).ok()? };
            (id.to_string() == text).then_some(id)
        };
        parse().ok_or_else(|| Fault::new("must be a lease id as AcquireSlot returned it"))
    }
}

in_json_as_printed!(LeaseId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_ids_read_back_only_in_the_form_they_are_printed() {
        let env = Env::system();
        let id = SessionId::new(&env);
        assert_eq!(id.to_string().parse::<SessionId>().expect("printed form"), id);
        for wrong in ["", "ses_", "ses_x", &id.to_string().to_uppercase(), &id.as_uuid().to_string()] {
            assert!(wrong.parse::<SessionId>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_lease_id_carries_its_agent() {
        let env = Env::system();
        let agent = VoiceAgentId::new(&env);
        let lease = LeaseId::new(&env, agent);
        let back: LeaseId = lease.to_string().parse().expect("printed form");
        assert_eq!((back, back.agent()), (lease, agent));
        assert_eq!(LeaseId::from_bytes(lease.to_bytes()), lease);
        for wrong in ["", "lse_", "lse_é", &lease.to_string()[..67], &format!("{lease}0")] {
            assert!(wrong.parse::<LeaseId>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn chosen_ids_are_bounded_visible_ascii() {
        assert!("call-1".parse::<CallId>().is_ok());
        assert!("x".repeat(128).parse::<CallId>().is_ok());
        for wrong in ["", " ", "a b", "tab\t", "ünï", &"x".repeat(129)] {
            assert!(wrong.parse::<CallId>().is_err(), "{wrong:?}");
        }
    }
}
