//! What can be seen of a call, and what the contract says a verb makes of it.

use prost_types::Timestamp;
use voxgate::proto::v1::{
    CallPhase, CallState, Conference, ConferenceMember, Leg, LegRole, Monitor, MonitorMode, RecordingState, Session,
    SessionLogEntry, SessionOutcome, SessionStatus, Verb,
};

use super::{
    table::is_for_the_node,
    wire::{DISPOSITION, INVITEE, LEAD_FIELD, LEAD_STATUS, MONITOR, NOTES, Told, lead_value, logged},
};

/// All that its owner reads of a call, less what passes by itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    /// As GetCallState answers, which tells of the slots in use too: the call's agent has no other calls. Nothing once
    /// the session has ended and its slot is free.
    pub(super) state: Option<CallState>,
    /// As GetSession answers. Of the moments in which something happened only that it did is kept.
    pub(super) session: Session,
    /// Commands that the node was given, where it is one that remembers them.
    pub(super) commands: Option<usize>,
}

impl Seen {
    pub(super) fn new(state: Option<CallState>, session: Session, commands: Option<usize>) -> Self {
        let log = session.log.into_iter().map(|entry| SessionLogEntry { logged_at: once(entry.logged_at), ..entry });
        let session = Session { log: log.collect(), ended_at: once(session.ended_at), expires_at: None, ..session };
        Self { state, session, commands }
    }

    /// What is seen after the verb has happened, and answered `told`.
    pub(super) fn after(mut self, verb: Verb, told: &Told, target: &str) -> Self {
        self.commands = self.commands.map(|commands| commands + usize::from(is_for_the_node(verb)));
        match verb {
            Verb::Transfer => return self.ended(SessionOutcome::TransferredAgentQueue),
            Verb::Hangup => return self.ended(SessionOutcome::Hangup),
            Verb::ConferenceLeave => return self.ended(SessionOutcome::ConferenceLeft),
            Verb::Log => {
                let entry = SessionLogEntry { logged_at: Some(Timestamp::default()), metadata: Some(logged()) };
                self.session.log.push(entry);
            }
            Verb::SetDisposition => {
                self.session.disposition = Some(DISPOSITION.to_owned());
                self.session.notes = Some(NOTES.to_owned());
            }
            Verb::SetLeadField => {
                self.session.lead_fields.insert(LEAD_FIELD.to_owned(), lead_value());
            }
            Verb::SetLeadStatus => self.session.lead_status = LEAD_STATUS.into(),
            _ => {}
        }
        if let Some(state) = &mut self.state {
            change(state, verb, told.made.as_deref().unwrap_or_default(), target);
            state.legs = legs(state);
        }
        self
    }

    fn ended(mut self, outcome: SessionOutcome) -> Self {
        self.session.status = SessionStatus::Ended.into();
        self.session.outcome = outcome.into();
        self.session.ended_at = Some(Timestamp::default());
        Self { state: None, ..self }
    }
}

fn once(moment: Option<Timestamp>) -> Option<Timestamp> {
    moment.map(|_| Timestamp::default())
}

fn change(state: &mut CallState, verb: Verb, made: &str, target: &str) {
    match verb {
        Verb::Mute => state.caller_muted = true,
        Verb::Unmute => state.caller_muted = false,
        Verb::Hold => state.held = true,
        Verb::Unhold => state.held = false,
        Verb::RecordingPause => state.recording = RecordingState::Paused.into(),
        Verb::RecordingResume => state.recording = RecordingState::Active.into(),
        Verb::ConferenceStart => {
            state.conference = Some(Conference { conference_id: made.to_owned(), members: Vec::new() });
        }
        Verb::ConferenceAdd => state.conference.get_or_insert_default().members.push(member(made, INVITEE.1)),
        // The only member that there is.
        Verb::ConferenceRemove => state.conference.get_or_insert_default().members.clear(),
        Verb::Barge => state.monitors.iter_mut().for_each(|monitor| monitor.barged = true),
        Verb::MonitorStart => state.monitors = vec![monitor(target, MONITOR)],
        Verb::MonitorStop => state.monitors.clear(),
        // They leave no trace in the state.
        _ => {}
    }
}

fn member(id: &str, destination: &str) -> ConferenceMember {
    ConferenceMember {
        member_id: id.to_owned(),
        participant_type: INVITEE.0.into(),
        destination: destination.to_owned(),
    }
}

fn monitor(target: &str, mode: MonitorMode) -> Monitor {
    Monitor { target_call_id: target.to_owned(), mode: mode.into(), barged: false }
}

/// The caller's, the AI's, and one of each member.
fn legs(state: &CallState) -> Vec<Leg> {
    let leg = |role: LegRole, connected| Leg { role: role.into(), connected, ..Leg::default() };
    let answered = state.phase() == CallPhase::Active;
    let caller = Leg { muted: state.caller_muted, held: state.held, ..leg(LegRole::Caller, answered) };
    let agent = Leg { muted: state.agent_muted, ..leg(LegRole::Agent, state.ws_connected) };
    let members = state.conference.iter().flat_map(|conference| &conference.members);
    let members = members.map(|member| Leg { member_id: member.member_id.clone(), ..leg(LegRole::Member, true) });
    [caller, agent].into_iter().chain(members).collect()
}
