//! Puts the caller on hold, with music from `moh_url` where one is given.

use serde::{Deserialize, Serialize};

use super::{Done, Effect, Executor, Result, Rules, Scene, Session};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub moh_url: Option<String>,
}

impl Rules for Hold {
    const EXECUTOR: Executor = Executor::Node;

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        if scene.session.state.held { Err(scene.invalid("already_held")) } else { Ok(self) }
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        session.state.held = true;
        Effect::default()
    }
}
