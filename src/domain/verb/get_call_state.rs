//! Reads the call's state; changes nothing and needs no node.

use serde::{Deserialize, Serialize};

use super::{Executor, Rules};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetCallState;

impl Rules for GetCallState {
    const EXECUTOR: Executor = Executor::Read;
}
