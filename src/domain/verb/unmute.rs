//! Lets a muted party be heard again.

use serde::{Deserialize, Serialize};

use super::{Done, Effect, Executor, Result, Rules, Scene, Session};
use crate::domain::session::Party;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmute {
    pub party: Party,
}

impl Rules for Unmute {
    const EXECUTOR: Executor = Executor::Node;

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        if scene.session.state.is_muted(self.party) { Ok(self) } else { Err(scene.invalid("not_muted")) }
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        session.state.set_muted(self.party, false);
        Effect::default()
    }
}
