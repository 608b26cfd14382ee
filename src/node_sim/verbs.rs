//! What each of the node's 18 verbs does to a simulated call.
//!
//! Refusals are those of a real node: by the state that the call is in. What leaves no trace in the state (touch tones,
//! playback) is accepted as it is.

use std::collections::BTreeMap;

use super::{
    call::{Call, Conference, Monitor},
    calls::After,
};
use crate::{
    domain::{Env, verb::VerbName},
    proto::v1::{
        CommandFailed, CommandSucceeded, ConferenceAddCommand, MonitorMode, MonitorStartCommand, MuteTarget,
        command::Verb,
    },
};

type Executed = Result<(CommandSucceeded, After), CommandFailed>;

/// The verbs that nodes carry out.
pub(super) const ALL: [VerbName; 18] = [
    VerbName::Barge,
    VerbName::ConferenceAdd,
    VerbName::ConferenceLeave,
    VerbName::ConferenceRemove,
    VerbName::ConferenceStart,
    VerbName::Hangup,
    VerbName::Hold,
    VerbName::MonitorStart,
    VerbName::MonitorStop,
    VerbName::Mute,
    VerbName::PlayAudio,
    VerbName::RecordingPause,
    VerbName::RecordingResume,
    VerbName::SendDtmf,
    VerbName::Transfer,
    VerbName::Unhold,
    VerbName::Unmute,
    VerbName::Whisper,
];

pub(super) const fn name(verb: &Verb) -> VerbName {
    match verb {
        Verb::Transfer(_) => VerbName::Transfer,
        Verb::Hangup(_) => VerbName::Hangup,
        Verb::Mute(_) => VerbName::Mute,
        Verb::Unmute(_) => VerbName::Unmute,
        Verb::Hold(_) => VerbName::Hold,
        Verb::Unhold(_) => VerbName::Unhold,
        Verb::SendDtmf(_) => VerbName::SendDtmf,
        Verb::PlayAudio(_) => VerbName::PlayAudio,
        Verb::RecordingPause(_) => VerbName::RecordingPause,
        Verb::RecordingResume(_) => VerbName::RecordingResume,
        Verb::ConferenceStart(_) => VerbName::ConferenceStart,
        Verb::ConferenceAdd(_) => VerbName::ConferenceAdd,
        Verb::ConferenceRemove(_) => VerbName::ConferenceRemove,
        Verb::ConferenceLeave(_) => VerbName::ConferenceLeave,
        Verb::Whisper(_) => VerbName::Whisper,
        Verb::Barge(_) => VerbName::Barge,
        Verb::MonitorStart(_) => VerbName::MonitorStart,
        Verb::MonitorStop(_) => VerbName::MonitorStop,
    }
}

pub(super) fn failed(reason: &str, message: &str) -> CommandFailed {
    CommandFailed { reason: reason.to_owned(), message: message.to_owned() }
}

fn wrong_state(message: &str) -> CommandFailed {
    failed("INVALID_CALL_STATE", message)
}

fn goes() -> (CommandSucceeded, After) {
    (CommandSucceeded::default(), After::Goes)
}

fn over() -> (CommandSucceeded, After) {
    (CommandSucceeded::default(), After::Over)
}

pub(super) fn execute(call: &mut Call, verb: Verb, env: &Env) -> Executed {
    match verb {
        Verb::Transfer(_) | Verb::Hangup(_) => Ok(over()),
        Verb::Mute(mute) => flip(muted(call, mute.target()), true, "the party is muted already"),
        Verb::Unmute(unmute) => flip(muted(call, unmute.target()), false, "the party is not muted"),
        Verb::Hold(_) => flip(&mut call.held, true, "the caller is on hold already"),
        Verb::Unhold(_) => flip(&mut call.held, false, "the caller is not on hold"),
        Verb::SendDtmf(_) => Ok(goes()),
        Verb::PlayAudio(_) => {
            let playback_id = Some(minted("play", env));
            Ok((CommandSucceeded { playback_id, ..CommandSucceeded::default() }, After::Goes))
        }
        Verb::RecordingPause(_) => flip(&mut call.recording_paused, true, "the recording is paused already"),
        Verb::RecordingResume(_) => flip(&mut call.recording_paused, false, "the recording is not paused"),
        Verb::ConferenceStart(_) => conference_start(call, env),
        Verb::ConferenceAdd(add) => conference_add(call, add, env),
        Verb::ConferenceRemove(remove) => {
            let member = conference(call, &remove.conference_id)?.members.remove(&remove.member_id);
            member.map(|_| goes()).ok_or_else(|| failed("MEMBER_NOT_FOUND", "the conference has no such member"))
        }
        Verb::ConferenceLeave(leave) => conference(call, &leave.conference_id).map(|_| over()),
        Verb::Whisper(whisper) => {
            let allowed = monitor(call, &whisper.target_call_id)?.mode == MonitorMode::ListenAndWhisper;
            if allowed { Ok(goes()) } else { Err(unrelated("the monitor may only listen")) }
        }
        Verb::Barge(barge) => {
            let barged = &mut monitor(call, &barge.target_call_id)?.barged;
            flip(barged, true, "the call takes part already")
        }
        Verb::MonitorStart(start) => monitor_start(call, start),
        Verb::MonitorStop(stop) => {
            let monitor = call.monitors.remove(&stop.target_call_id);
            monitor.map(|_| goes()).ok_or_else(|| unrelated("the call is not monitored"))
        }
    }
}

fn flip(switch: &mut bool, to: bool, refusal: &str) -> Executed {
    if *switch == to {
        return Err(wrong_state(refusal));
    }
    *switch = to;
    Ok(goes())
}

fn muted(call: &mut Call, target: MuteTarget) -> &mut bool {
    match target {
        MuteTarget::Agent => &mut call.agent_muted,
        MuteTarget::Caller | MuteTarget::Unspecified => &mut call.caller_muted,
    }
}

fn conference_start(call: &mut Call, env: &Env) -> Executed {
    if call.conference.is_some() {
        return Err(wrong_state("the call is a conference already"));
    }
    let id = minted("conf", env);
    call.conference = Some(Conference { id: id.clone(), members: BTreeMap::new() });
    Ok((CommandSucceeded { conference_id: Some(id), ..CommandSucceeded::default() }, After::Goes))
}

fn conference_add(call: &mut Call, add: ConferenceAddCommand, env: &Env) -> Executed {
    let member = minted("member", env);
    let invitee = (add.participant_type(), add.destination);
    conference(call, &add.conference_id)?.members.insert(member.clone(), invitee);
    Ok((CommandSucceeded { member_id: Some(member), ..CommandSucceeded::default() }, After::Goes))
}

fn conference<'a>(call: &'a mut Call, id: &str) -> Result<&'a mut Conference, CommandFailed> {
    let conference = call.conference.as_mut().filter(|conference| conference.id == id);
    conference.ok_or_else(|| wrong_state("the call is not in this conference"))
}

/// A monitor may be given another mode; whether it takes part in the call stays.
fn monitor_start(call: &mut Call, start: MonitorStartCommand) -> Executed {
    let mode = start.mode();
    match call.monitors.get_mut(&start.target_call_id) {
        Some(monitor) if monitor.mode == mode => return Err(wrong_state("the call is monitored so already")),
        Some(monitor) => monitor.mode = mode,
        None => drop(call.monitors.insert(start.target_call_id, Monitor { mode, barged: false })),
    }
    Ok(goes())
}

fn monitor<'a>(call: &'a mut Call, target: &str) -> Result<&'a mut Monitor, CommandFailed> {
    call.monitors.get_mut(target).ok_or_else(|| unrelated("the call is not monitored"))
}

fn unrelated(message: &str) -> CommandFailed {
    failed("CONFERENCE_MEMBERSHIP_REQUIRED", message)
}

fn minted(kind: &str, env: &Env) -> String {
    format!("{kind}_{}", env.uuid())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;
    use crate::proto::v1::{
        BargeCommand, ConferenceLeaveCommand, ConferenceRemoveCommand, ConferenceStartCommand, HoldCommand,
        MonitorStopCommand, MuteCommand, ParticipantType, RecordingPauseCommand, RecordingResumeCommand,
        TransferCommand, UnmuteCommand, WhisperCommand,
    };

    fn run(call: &mut Call, verb: Verb) -> Executed {
        execute(call, verb, &Env::system())
    }

    fn refusal(call: &mut Call, verb: Verb) -> String {
        run(call, verb).expect_err("refused").reason
    }

    #[test]
    fn every_verb_that_a_command_can_carry_has_its_name() {
        let set = prost_types::FileDescriptorSet::decode(crate::proto::DESCRIPTOR_SET).expect("our descriptors");
        let messages = set.file.iter().flat_map(|file| &file.message_type);
        let command = messages.into_iter().find(|message| message.name() == "Command").expect("the command");
        // What else is optional is a oneof of its own to the descriptor.
        let is_verb =
            |field: &&prost_types::FieldDescriptorProto| field.oneof_index.is_some() && !field.proto3_optional();
        let carried = command.field.iter().filter(is_verb);
        let carried: BTreeSet<String> = carried.map(|field| field.name().to_uppercase()).collect();
        assert_eq!(ALL.map(|verb| verb.as_str().to_owned()).into_iter().collect::<BTreeSet<_>>(), carried);
        assert_eq!(ALL.len(), carried.len(), "none stands twice");
    }

    #[test]
    fn a_call_tells_its_state() {
        let call = &mut Call::default();
        assert_eq!(call.to_string(), "caller, ai; recording");
        run(call, Verb::Hold(HoldCommand::default())).expect("held");
        run(call, Verb::Mute(MuteCommand { target: MuteTarget::Agent.into() })).expect("muted");
        run(call, Verb::RecordingPause(RecordingPauseCommand::default())).expect("paused");
        let (started, _) = run(call, Verb::ConferenceStart(ConferenceStartCommand {})).expect("started");
        let conference_id = started.conference_id.expect("a conference id");
        let add = ConferenceAddCommand {
            conference_id: conference_id.clone(),
            participant_type: ParticipantType::E164.into(),
            destination: "+15550100".into(),
            ..ConferenceAddCommand::default()
        };
        run(call, Verb::ConferenceAdd(add)).expect("added");
        let listen = MonitorStartCommand { target_call_id: "call-2".into(), mode: MonitorMode::Listen.into() };
        run(call, Verb::MonitorStart(listen)).expect("listening");
        let told = "caller held, ai muted, e164 +15550100; in conference CONF; recording paused; listening to call-2";
        assert_eq!(call.to_string(), told.replace("CONF", &conference_id));
    }

    #[test]
    fn a_switch_turns_once_each_way() {
        let call = &mut Call::default();
        let mute = Verb::Mute(MuteCommand { target: MuteTarget::Agent.into() });
        let unmute = Verb::Unmute(UnmuteCommand { target: MuteTarget::Agent.into() });
        run(call, mute.clone()).expect("muted");
        assert_eq!((call.agent_muted, call.caller_muted), (true, false));
        assert_eq!(refusal(call, mute), "INVALID_CALL_STATE");
        run(call, unmute).expect("unmuted");
        let (pause, resume) = (RecordingPauseCommand::default(), RecordingResumeCommand {});
        assert_eq!(refusal(call, Verb::RecordingResume(resume)), "INVALID_CALL_STATE");
        run(call, Verb::RecordingPause(pause)).expect("paused");
        assert!(call.recording_paused);
    }

    #[test]
    fn a_conference_names_itself_and_its_members() {
        let call = &mut Call::default();
        let (started, _) = run(call, Verb::ConferenceStart(ConferenceStartCommand {})).expect("started");
        let conference_id = started.conference_id.expect("a conference id");
        let add = ConferenceAddCommand {
            conference_id: conference_id.clone(),
            destination: "+15550100".into(),
            ..ConferenceAddCommand::default()
        };
        let (added, _) = run(call, Verb::ConferenceAdd(add)).expect("added");
        let remove = ConferenceRemoveCommand {
            conference_id: conference_id.clone(),
            member_id: added.member_id.expect("a member id"),
        };
        run(call, Verb::ConferenceRemove(remove.clone())).expect("removed");
        assert_eq!(refusal(call, Verb::ConferenceRemove(remove)), "MEMBER_NOT_FOUND");
        let elsewhere = ConferenceLeaveCommand { conference_id: "conf_x".into() };
        assert_eq!(refusal(call, Verb::ConferenceLeave(elsewhere)), "INVALID_CALL_STATE");
        let leave = Verb::ConferenceLeave(ConferenceLeaveCommand { conference_id });
        assert_eq!(run(call, leave).expect("left").1, After::Over);
    }

    #[test]
    fn whispering_needs_a_monitor_that_may() {
        let call = &mut Call::default();
        let target = || "call-2".to_owned();
        let whisper = || Verb::Whisper(WhisperCommand { target_call_id: target(), ..WhisperCommand::default() });
        let monitor =
            |mode: MonitorMode| Verb::MonitorStart(MonitorStartCommand { target_call_id: target(), mode: mode.into() });
        assert_eq!(refusal(call, whisper()), "CONFERENCE_MEMBERSHIP_REQUIRED");
        run(call, monitor(MonitorMode::Listen)).expect("listening");
        assert_eq!(refusal(call, whisper()), "CONFERENCE_MEMBERSHIP_REQUIRED");
        run(call, monitor(MonitorMode::ListenAndWhisper)).expect("whispering");
        run(call, whisper()).expect("heard");
        assert_eq!(refusal(call, monitor(MonitorMode::ListenAndWhisper)), "INVALID_CALL_STATE");
        let barge = || Verb::Barge(BargeCommand { target_call_id: target() });
        run(call, barge()).expect("joined");
        assert_eq!(refusal(call, barge()), "INVALID_CALL_STATE");
        run(call, monitor(MonitorMode::Listen)).expect("listening again");
        assert!(call.monitors[&target()].barged, "still a party");
        assert_eq!(refusal(call, whisper()), "CONFERENCE_MEMBERSHIP_REQUIRED", "which does not make it whisper");
        run(call, Verb::MonitorStop(MonitorStopCommand { target_call_id: target() })).expect("stopped");
        assert!(call.monitors.is_empty());
    }

    #[test]
    fn a_transfer_ends_the_call_at_the_node() {
        let transfer = Verb::Transfer(TransferCommand::default());
        assert_eq!(run(&mut Call::default(), transfer).expect("transferred").1, After::Over);
    }
}
