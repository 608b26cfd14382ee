//! Takes the caller off hold.

use serde::{Deserialize, Serialize};

use super::{Done, Effect, Executor, Result, Rules, Scene, Session};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unhold;

impl Rules for Unhold {
    const EXECUTOR: Executor = Executor::Node;

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        if scene.session.state.held { Ok(self) } else { Err(scene.invalid("not_held")) }
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        session.state.held = false;
        Effect::default()
    }
}
