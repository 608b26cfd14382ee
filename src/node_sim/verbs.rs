//! What each of the node's 18 verbs does to a simulated call.
//!
//! Refusals are those of a real node: by the state that the call is in. What leaves no trace in the state (touch tones,
//! playback) is accepted as it is.

use std::collections::BTreeMap;

use super::calls::{After, Call, Conference, Monitor};
use crate::{
    domain::Env,
    proto::v1::{CommandFailed, CommandSucceeded, ConferenceAddCommand, MonitorMode, MuteTarget, command::Verb},
};

type Executed = Result<(CommandSucceeded, After), CommandFailed>;

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
            let monitor = monitor(call, &whisper.target_call_id)?;
            let allowed = monitor.barged || monitor.mode == MonitorMode::ListenAndWhisper;
            if allowed { Ok(goes()) } else { Err(unrelated("the monitor may only listen")) }
        }
        Verb::Barge(barge) => {
            monitor(call, &barge.target_call_id)?.barged = true;
            Ok(goes())
        }
        Verb::MonitorStart(start) => {
            let monitor = Monitor { mode: start.mode(), barged: false };
            call.monitors.insert(start.target_call_id, monitor);
            Ok(goes())
        }
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
    conference(call, &add.conference_id)?.members.insert(member.clone(), add.destination);
    Ok((CommandSucceeded { member_id: Some(member), ..CommandSucceeded::default() }, After::Goes))
}

fn conference<'a>(call: &'a mut Call, id: &str) -> Result<&'a mut Conference, CommandFailed> {
    let conference = call.conference.as_mut().filter(|conference| conference.id == id);
    conference.ok_or_else(|| wrong_state("the call is not in this conference"))
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
    use super::*;
    use crate::proto::v1::{
        BargeCommand, ConferenceLeaveCommand, ConferenceRemoveCommand, ConferenceStartCommand, MonitorStartCommand,
        MonitorStopCommand, MuteCommand, RecordingPauseCommand, RecordingResumeCommand, TransferCommand, UnmuteCommand,
        WhisperCommand,
    };

    fn run(call: &mut Call, verb: Verb) -> Executed {
        execute(call, verb, &Env::system())
    }

    fn refusal(call: &mut Call, verb: Verb) -> String {
        run(call, verb).expect_err("refused").reason
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
        run(call, Verb::Barge(BargeCommand { target_call_id: target() })).expect("joined");
        run(call, Verb::MonitorStop(MonitorStopCommand { target_call_id: target() })).expect("stopped");
        assert!(call.monitors.is_empty());
    }

    #[test]
    fn a_transfer_ends_the_call_at_the_node() {
        let transfer = Verb::Transfer(TransferCommand::default());
        assert_eq!(run(&mut Call::default(), transfer).expect("transferred").1, After::Over);
    }
}
