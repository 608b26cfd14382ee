//! Puts the caller on hold, with music from `moh_url` where one is given.

use serde::{Deserialize, Serialize};

use super::{CallState, Executor, Result, Rules, Session};
use crate::domain::Error;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub moh_url: Option<String>,
}

impl Rules for Hold {
    const EXECUTOR: Executor = Executor::Node;

    fn prepare(self, session: &Session) -> Result<Self> {
        if session.state.held {
            return Err(Error::InvalidCallState { call: session.call.clone(), state: "already_held" });
        }
        Ok(self)
    }

    fn effect(&self, state: &mut CallState) {
        state.held = true;
    }
}
