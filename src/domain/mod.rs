//! The words of the house: values and rules without any wire, store or runtime.
//!
//! Everything here is pure. A value that exists has been checked (`parse`, not `validate`), carries its
//! identity in its type and its unit in its name. Rooms share nothing but what stands here.

pub mod audit;
pub mod behavior;
pub mod certificate;
pub mod clock;
pub mod conference;
pub mod destination;
pub mod direct;
pub mod error;
pub mod event;
pub mod event_pattern;
pub mod hash;
pub mod ids;
pub mod journal;
pub mod keyring;
pub mod lease;
pub mod lease_token;
pub mod node;
pub mod number;
pub mod operation;
pub mod page;
pub mod principal;
pub mod queue;
pub mod rate;
pub mod results;
pub mod session;
pub mod session_filter;
pub mod sip;
pub mod tenant;
pub mod text;
pub mod trace;
pub mod transcript;
pub mod verb;
pub mod violations;
pub mod voice_agent;
pub mod webhook;
pub mod words;

pub use clock::{Clock, Entropy, Env, Timestamp};
pub use error::{Error, Result};
