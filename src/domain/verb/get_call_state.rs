//! Reads the call's state; changes nothing and needs no node.

use serde::{Deserialize, Serialize};

use super::{CallState, Executor, Result, Rules, Session};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetCallState;

impl Rules for GetCallState {
    const EXECUTOR: Executor = Executor::ControlPlane;

    fn prepare(self, _: &Session) -> Result<Self> {
        Ok(self)
    }

    fn effect(&self, _: &mut CallState) {}
}
