//! Mutes a party: the other one no longer hears it.

use serde::{Deserialize, Serialize};

use super::{Done, Effect, Executor, Result, Rules, Scene, Session};
use crate::domain::session::Party;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mute {
    pub party: Party,
}

impl Rules for Mute {
    const EXECUTOR: Executor = Executor::Node;

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        if scene.session.state.is_muted(self.party) { Err(scene.invalid("already_muted")) } else { Ok(self) }
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        session.state.set_muted(self.party, true);
        Effect::default()
    }
}
