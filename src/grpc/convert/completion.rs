//! Transcripts and results on the wire.

use super::{
    read_enum,
    session::write_with_log,
    value::{object, read_object, read_timestamp, timestamp},
    wire_enum,
};
use crate::{
    calls::Whole,
    domain::{
        results::ResultWarning,
        transcript::{Completion, TURNS_MAX, TranscriptRole, Turn},
        violations::{Fault, Violations},
    },
    proto::v1,
};

wire_enum!(TranscriptRole, v1::TranscriptRole, { Caller, Agent, System, Tool });

pub(crate) fn read_completion(
    transcript: Vec<v1::TranscriptTurn>,
    results: Option<prost_types::Struct>,
    faults: &mut Violations,
) -> Option<Completion> {
    if transcript.is_empty() {
        faults.add("transcript", Fault::required());
    } else if transcript.len() > TURNS_MAX {
        faults.add("transcript", Fault::new(format!("must have 1 to {TURNS_MAX} turns")));
    }
    let mut turns = Vec::with_capacity(transcript.len().min(TURNS_MAX));
    for (at, turn) in transcript.into_iter().take(TURNS_MAX).enumerate() {
        turns.extend(read_turn(at, turn, faults));
    }
    let results = faults.take("results", results.map(|results| read_object(Some(results))).transpose());
    Some(Completion { transcript: turns, results: results? })
}

/// Nothing where it is at fault.
fn read_turn(at: usize, wire: v1::TranscriptTurn, faults: &mut Violations) -> Option<Turn> {
    let mut own = Violations::default();
    let role = read_enum("role", wire.role, &mut own);
    if role.is_none() && own.is_empty() {
        own.add("role", Fault::required());
    }
    let text = own.take("text", Turn::parse_text(wire.text));
    let spoken_at = own.take("spoken_at", wire.spoken_at.map(read_timestamp).transpose());
    if !own.is_empty() {
        faults.absorb(&format!("transcript[{at}]"), own);
    }
    Some(Turn { role: role?, text: text?, spoken_at: spoken_at? })
}

/// A session with all that lists leave out.
pub(crate) fn write_whole(whole: &Whole) -> v1::Session {
    let session = write_with_log(&whole.session, &whole.log);
    let Some(posted) = &whole.posted else { return session };
    v1::Session {
        transcript: posted.completion.transcript.iter().map(write_turn).collect(),
        results: posted.completion.results.as_ref().map(object),
        result_warnings: posted.warnings.iter().map(write_warning).collect(),
        ..session
    }
}

fn write_turn(turn: &Turn) -> v1::TranscriptTurn {
    v1::TranscriptTurn {
        role: v1::TranscriptRole::from(turn.role).into(),
        text: turn.text.clone(),
        spoken_at: turn.spoken_at.map(timestamp),
    }
}

fn write_warning(warning: &ResultWarning) -> v1::ResultWarning {
    v1::ResultWarning { path: warning.path.clone(), description: warning.description.clone() }
}
