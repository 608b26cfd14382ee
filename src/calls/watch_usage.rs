//! Follows how full an agent or a tenant is: all who watch the same share one look at it.
//!
//! The look is taken ten times a second while things change, and half as often in time when they do not, so a watcher
//! is told at most ten times a second and of every state that lasts. That the first waiter has waited a moment longer is
//! no change.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use tokio::sync::watch;
use tracing::Instrument as _;

use super::{
    Calls,
    credential::Credential,
    watchers::{Watcher, Watchers},
};
use crate::domain::{
    Result,
    ids::{TenantId, VoiceAgentId},
    lease::Usage,
    principal::Principal,
};

const LOOK_LEAST: Duration = Duration::from_millis(100);
const LOOK_MOST: Duration = Duration::from_millis(500);

type Subject = (TenantId, Option<VoiceAgentId>);

/// What is watched on this replica.
#[derive(Debug, Default)]
pub(super) struct Watches {
    looks: Mutex<HashMap<Subject, watch::Receiver<Usage>>>,
    watchers: Watchers,
}

/// One who watches.
#[derive(Debug)]
pub struct UsageWatch {
    calls: Calls,
    subject: Subject,
    credential: Option<Credential>,
    look: watch::Receiver<Usage>,
    told: Option<Usage>,
    _watcher: Watcher,
}

impl Calls {
    pub async fn watch_usage(&self, principal: &Principal, agent: Option<VoiceAgentId>) -> Result<UsageWatch> {
        let watcher = self.watches.watchers.admit(self.settings.usage_max_watches)?;
        let subject = (principal.tenant(), agent);
        let look = self.look_at(subject).await?;
        let credential = Credential::of(principal);
        Ok(UsageWatch { calls: self.clone(), subject, credential, look, told: None, _watcher: watcher })
    }

    /// The look that is being taken at the subject, or a new one.
    async fn look_at(&self, subject: Subject) -> Result<watch::Receiver<Usage>> {
        let known = |looks: &HashMap<Subject, watch::Receiver<Usage>>| looks.get(&subject).cloned();
        if let Some(look) = known(&self.watches.looks.lock().expect("nobody panics while holding it")) {
            return Ok(look);
        }
        let first = self.usage(subject.0, subject.1).await?;
        let mut looks = self.watches.looks.lock().expect("nobody panics while holding it");
        if let Some(look) = known(&looks) {
            return Ok(look);
        }
        let (sender, look) = watch::channel(first);
        looks.insert(subject, look.clone());
        drop(looks);
        tokio::spawn(self.clone().keep_looking(subject, sender).in_current_span());
        Ok(look)
    }

    /// Until nobody watches, or the subject cannot be read: whoever watches then finds out why.
    async fn keep_looking(self, subject: Subject, sender: watch::Sender<Usage>) {
        let mut pause = LOOK_LEAST;
        loop {
            tokio::time::sleep(pause).await;
            {
                let mut looks = self.watches.looks.lock().expect("nobody panics while holding it");
                // The one that is kept there for those who come.
                if sender.receiver_count() <= 1 {
                    looks.remove(&subject);
                    return;
                }
            }
            let Ok(usage) = self.usage(subject.0, subject.1).await else {
                self.watches.looks.lock().expect("nobody panics while holding it").remove(&subject);
                return;
            };
            let changed = sender.send_if_modified(|told| {
                let is_news = is_news(told, &usage);
                *told = usage;
                is_news
            });
            pause = if changed { LOOK_LEAST } else { (pause * 5 / 4).min(LOOK_MOST) };
        }
    }
}

/// Whether there is more to say than that the first has waited longer.
fn is_news(told: &Usage, usage: &Usage) -> bool {
    let still = Usage { oldest_waiter: usage.oldest_waiter, ..*told };
    still != *usage || told.oldest_waiter.is_some() != usage.oldest_waiter.is_some()
}

impl UsageWatch {
    /// The state at once, and then whenever it has changed.
    pub async fn next(&mut self) -> Result<Usage> {
        let every = Duration::from_millis(self.calls.settings.heartbeat_interval_ms);
        loop {
            let usage = *self.look.borrow_and_update();
            if self.told.is_none_or(|told| is_news(&told, &usage)) {
                self.told = Some(usage);
                return Ok(usage);
            }
            tokio::select! {
                changed = self.look.changed() => {
                    if changed.is_err() {
                        self.look = self.calls.look_at(self.subject).await?;
                    }
                }
                () = tokio::time::sleep(every) => {
                    if let Some(credential) = self.credential {
                        self.calls.check_credential(credential).await?;
                    }
                }
            }
        }
    }
}
