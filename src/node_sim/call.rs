//! One call as the node knows it: its switches, its conference and whom it listens to.

use std::{collections::BTreeMap, fmt};

use secrecy::SecretString;

use crate::proto::v1::{MonitorMode, ParticipantType};

/// One hosted call.
#[expect(clippy::struct_excessive_bools, reason = "independent switches of a call, not states of one machine")]
#[derive(Debug, Default)]
pub(super) struct Call {
    pub(super) lease_id: String,
    pub(super) session_id: String,
    pub(super) fence: i64,
    /// What a real node passes to the AI service.
    pub(super) token: SecretString,
    pub(super) held: bool,
    pub(super) caller_muted: bool,
    pub(super) agent_muted: bool,
    pub(super) recording_paused: bool,
    pub(super) conference: Option<Conference>,
    /// By the call that is listened to.
    pub(super) monitors: BTreeMap<String, Monitor>,
}

/// Its legs as they are, its recording, and whom it listens to: what a log tells of it.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let switched = |on, word| if on { word } else { "" };
        write!(f, "caller{}{}", switched(self.held, " held"), switched(self.caller_muted, " muted"))?;
        write!(f, ", ai{}", switched(self.agent_muted, " muted"))?;
        for (kind, destination) in self.conference.iter().flat_map(|conference| conference.members.values()) {
            let kind = kind.as_str_name().trim_start_matches("PARTICIPANT_TYPE_").to_lowercase();
            write!(f, ", {kind} {destination}")?;
        }
        if let Some(Conference { id, .. }) = &self.conference {
            write!(f, "; in conference {id}")?;
        }
        write!(f, "; recording{}", switched(self.recording_paused, " paused"))?;
        for (target, monitor) in &self.monitors {
            let part = match monitor.mode {
                _ if monitor.barged => "taking part in",
                MonitorMode::ListenAndWhisper => "listening and whispering to",
                MonitorMode::Listen | MonitorMode::Unspecified => "listening to",
            };
            write!(f, "; {part} {target}")?;
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Conference {
    pub(super) id: String,
    /// By member, whom it was brought in as: the kind and the destination.
    pub(super) members: BTreeMap<String, (ParticipantType, String)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Monitor {
    pub(super) mode: MonitorMode,
    pub(super) barged: bool,
}
