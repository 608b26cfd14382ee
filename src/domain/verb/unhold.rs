//! Takes the caller off hold.

use serde::{Deserialize, Serialize};

use super::{CallState, Executor, Result, Rules, Session};
use crate::domain::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unhold;

impl Rules for Unhold {
    const EXECUTOR: Executor = Executor::Node;

    fn prepare(self, session: &Session) -> Result<Self> {
        if !session.state.held {
            return Err(Error::InvalidCallState { call: session.call.clone(), state: "not_held" });
        }
        Ok(self)
    }

    fn effect(&self, state: &mut CallState) {
        state.held = false;
    }
}
