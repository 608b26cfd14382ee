//! Every settable field of a voice agent × every way to get it wrong, and the values at the edge that are right.

use std::collections::{BTreeMap, BTreeSet};

use voxgate::proto::v1::{
    AcquireSlotRequest, AudioEncoding, AudioFormat, CreateVoiceAgentRequest, UpdateVoiceAgentRequest, VoiceAgent,
};

use crate::harness::{
    client::{faults, granted},
    world::{World, acquire, minimal_agent, on_both_backends, unique},
};

on_both_backends!(
    each_bad_value_is_refused_by_the_name_of_its_field,
    all_faulty_fields_are_named_at_once,
    an_update_obeys_the_rules_of_create,
    values_at_the_limits_are_accepted_and_kept_as_sent,
    each_field_is_set_kept_and_cleared,
);

type Change = fn(&mut VoiceAgent);

fn text(length: usize) -> String {
    "x".repeat(length)
}

fn audio(agent: &mut VoiceAgent) -> &mut AudioFormat {
    agent.audio_format.get_or_insert_default()
}

fn label(agent: &mut VoiceAgent, key: &str, value: &str) {
    agent.metadata.insert(key.to_owned(), value.to_owned());
}

fn labels(count: usize) -> BTreeMap<String, String> {
    (0..count).map(|number| (format!("k{number}"), "v".to_owned())).collect()
}

/// What is wrong, the field that is named, and how to get there from an agent that is right.
const WRONG: &[(&str, &str, Change)] = &[
    ("missing", "name", |a| a.name = None),
    ("empty", "name", |a| a.name = Some(String::new())),
    ("blank", "name", |a| a.name = Some(" \u{a0}\t ".into())),
    ("too long", "name", |a| a.name = Some(text(201))),
    ("too long in unicode", "name", |a| a.name = Some("ü".repeat(201))),
    ("control characters", "name", |a| a.name = Some("a\u{7}b".into())),
    ("NUL", "name", |a| a.name = Some("a\0b".into())),
    ("line break", "name", |a| a.name = Some("a\nb".into())),
    ("missing", "ws_url", |a| a.ws_url = None),
    ("empty", "ws_url", |a| a.ws_url = Some(String::new())),
    ("too long", "ws_url", |a| a.ws_url = Some(format!("wss://h/{}", "x".repeat(2_041)))),
    ("wrong scheme", "ws_url", |a| a.ws_url = Some("https://ai.example/ws".into())),
    ("no scheme", "ws_url", |a| a.ws_url = Some("ai.example/ws".into())),
    ("relative", "ws_url", |a| a.ws_url = Some("//ai.example/ws".into())),
    ("no host", "ws_url", |a| a.ws_url = Some("wss://".into())),
    ("user", "ws_url", |a| a.ws_url = Some("wss://user@ai.example".into())),
    ("user and password", "ws_url", |a| a.ws_url = Some("wss://user:pw@ai.example".into())),
    ("empty user", "ws_url", |a| a.ws_url = Some("wss://@ai.example".into())),
    ("fragment", "ws_url", |a| a.ws_url = Some("wss://ai.example/#f".into())),
    ("empty fragment", "ws_url", |a| a.ws_url = Some("wss://ai.example/#".into())),
    ("line break", "ws_url", |a| a.ws_url = Some("wss://ai.ex\nample".into())),
    ("blanks around", "ws_url", |a| a.ws_url = Some(" wss://ai.example ".into())),
    ("bad port", "ws_url", |a| a.ws_url = Some("wss://ai.example:99999".into())),
    ("empty", "auth_token", |a| a.auth_token = Some(String::new())),
    ("too long", "auth_token", |a| a.auth_token = Some(text(4_097))),
    ("unicode", "auth_token", |a| a.auth_token = Some("tokén".into())),
    ("header smuggling", "auth_token", |a| a.auth_token = Some("a\r\nX-Evil: 1".into())),
    ("blank", "auth_token", |a| a.auth_token = Some("a b".into())),
    ("unknown number", "audio_format.encoding", |a| audio(a).encoding = Some(99)),
    ("out of range", "audio_format.sample_rate_hz", |a| audio(a).sample_rate_hz = Some(44_100)),
    ("zero", "audio_format.sample_rate_hz", |a| audio(a).sample_rate_hz = Some(0)),
    ("between", "audio_format.sample_rate_hz", |a| audio(a).sample_rate_hz = Some(12_000)),
    ("not of PCMA", "audio_format.sample_rate_hz", |a| {
        audio(a).encoding = Some(AudioEncoding::Pcma.into());
        audio(a).sample_rate_hz = Some(48_000);
    }),
    ("not of PCMU", "audio_format.sample_rate_hz", |a| {
        audio(a).encoding = Some(AudioEncoding::Pcmu.into());
        audio(a).sample_rate_hz = Some(16_000);
    }),
    ("none", "audio_format.channels", |a| audio(a).channels = Some(0)),
    ("too many", "audio_format.channels", |a| audio(a).channels = Some(3)),
    ("between", "audio_format.frame_ms", |a| audio(a).frame_ms = Some(50)),
    ("negative", "audio_format.frame_ms", |a| audio(a).frame_ms = Some(-20)),
    ("empty", "external_agent_id", |a| a.external_agent_id = Some(String::new())),
    ("too long", "external_agent_id", |a| a.external_agent_id = Some(text(201))),
    ("control characters", "external_agent_id", |a| a.external_agent_id = Some("a\u{1b}".into())),
    ("empty", "transfer_destination", |a| a.transfer_destination = Some(String::new())),
    ("too short", "transfer_destination", |a| a.transfer_destination = Some("+123456".into())),
    ("too long", "transfer_destination", |a| a.transfer_destination = Some("+1234567890123456".into())),
    ("letters", "transfer_destination", |a| a.transfer_destination = Some("+1555CALLME".into())),
    ("other digits", "transfer_destination", |a| a.transfer_destination = Some("+١٢٣٤٥٦٧٨".into())),
    ("no plus", "transfer_destination", |a| a.transfer_destination = Some("15550100".into())),
    ("wrong scheme", "transfer_destination", |a| a.transfer_destination = Some("tel:+15550100".into())),
    ("blank", "transfer_destination", |a| a.transfer_destination = Some("+1555 0100".into())),
    ("too long a URI", "transfer_destination", |a| a.transfer_destination = Some(format!("sip:{}@h", text(507)))),
    ("no host", "transfer_destination", |a| a.transfer_destination = Some("sip:desk@".into())),
    ("header smuggling", "transfer_destination", |a| a.transfer_destination = Some("sip:a@b\r\nX: y".into())),
    ("headers", "transfer_destination", |a| a.transfer_destination = Some("sip:a@b?Route=c".into())),
    ("escaped line break", "transfer_destination", |a| a.transfer_destination = Some("sip:a%0d%0aX:y@b".into())),
    ("two hosts", "transfer_destination", |a| a.transfer_destination = Some("sip:a@b@c".into())),
    ("zero", "max_concurrent", |a| a.max_concurrent = Some(0)),
    ("negative", "max_concurrent", |a| a.max_concurrent = Some(-1)),
    ("too many", "max_concurrent", |a| a.max_concurrent = Some(10_001)),
    ("largest number", "max_concurrent", |a| a.max_concurrent = Some(i32::MAX)),
    ("negative", "reserved_inbound", |a| a.reserved_inbound = Some(-1)),
    ("above max_concurrent", "reserved_inbound", |a| a.reserved_inbound = Some(11)),
    ("unknown number", "token_lifetime", |a| a.token_lifetime = Some(99)),
    ("unknown number", "subprotocol", |a| a.subprotocol = Some(-1)),
    ("unknown number", "ws_disconnect_action", |a| a.ws_disconnect_action = Some(3)),
    ("too many", "metadata", |a| a.metadata = labels(33)),
    ("empty key", "metadata[\"\"]", |a| label(a, "", "v")),
    ("control character in a key", "metadata[\"a\\n\"]", |a| label(a, "a\n", "v")),
    ("long value", "metadata[\"k\"]", |a| label(a, "k", &"x".repeat(501))),
    ("NUL in a value", "metadata[\"k\"]", |a| label(a, "k", "a\0b")),
];

/// Values that are right, though only just.
const RIGHT: &[(&str, Change)] = &[
    ("name of one character", |a| a.name = Some("x".into())),
    ("name of 200", |a| a.name = Some("ü".repeat(200))),
    ("name beyond the first plane", |a| a.name = Some("Ada 🤖".into())),
    ("ws_url of 2048", |a| a.ws_url = Some(format!("wss://h/{}", "x".repeat(2_040)))),
    ("ws_url to an address", |a| a.ws_url = Some("ws://[::1]:8080/a?b=c%20d".into())),
    ("ws_url with an at-sign in its path", |a| a.ws_url = Some("wss://ai.example/@a".into())),
    ("auth_token of 4096", |a| a.auth_token = Some(text(4_096))),
    ("external_agent_id of 200", |a| a.external_agent_id = Some(text(200))),
    ("shortest number", |a| a.transfer_destination = Some("+1234567".into())),
    ("longest number", |a| a.transfer_destination = Some("+123456789012345".into())),
    ("SIP address", |a| a.transfer_destination = Some("sips:desk@pbx.example:5061;transport=tls".into())),
    ("one slot", |a| a.max_concurrent = Some(1)),
    ("most slots, all reserved", |a| {
        a.max_concurrent = Some(10_000);
        a.reserved_inbound = Some(10_000);
    }),
    ("longest SIP address", |a| a.transfer_destination = Some(format!("sip:{}@h", text(506)))),
    ("G.711 at its one rate", |a| {
        audio(a).encoding = Some(AudioEncoding::Pcmu.into());
        audio(a).sample_rate_hz = Some(8_000);
    }),
    ("24 kHz in frames of 10 ms", |a| {
        audio(a).sample_rate_hz = Some(24_000);
        audio(a).frame_ms = Some(10);
    }),
    ("frames of 30 ms", |a| audio(a).frame_ms = Some(30)),
    ("48 kHz stereo", |a| {
        a.audio_format =
            Some(AudioFormat { encoding: None, sample_rate_hz: Some(48_000), channels: Some(2), frame_ms: Some(60) });
    }),
    ("32 labels", |a| a.metadata = labels(32)),
    ("longest label", |a| label(a, &"k".repeat(64), &"ü".repeat(500))),
    ("empty value", |a| label(a, "k", "")),
];

fn with(change: Change) -> VoiceAgent {
    let mut agent = minimal_agent();
    change(&mut agent);
    agent
}

fn create(agent: VoiceAgent) -> CreateVoiceAgentRequest {
    CreateVoiceAgentRequest { voice_agent: Some(agent), request_id: String::new() }
}

async fn each_bad_value_is_refused_by_the_name_of_its_field(world: World) {
    let mut agents = world.caller.agents();
    for (what, field, change) in WRONG {
        let named = faults(agents.create_voice_agent(create(with(*change))).await);
        assert_eq!(named, [format!("voice_agent.{field}")], "{field} {what}");
    }
    let long_key = "k".repeat(65);
    let named = faults(agents.create_voice_agent(create(with(|a| label(a, &"k".repeat(65), "v")))).await);
    assert!(named.len() == 1 && named[0].starts_with("voice_agent.metadata["), "{long_key}: {named:?}");
    let named = faults(agents.create_voice_agent(CreateVoiceAgentRequest::default()).await);
    assert!(named.iter().any(|field| field.starts_with("voice_agent")), "{named:?}");
    let bad_id = CreateVoiceAgentRequest { request_id: "not a uuid".into(), ..create(minimal_agent()) };
    assert_eq!(faults(agents.create_voice_agent(bad_id).await), ["request_id"]);
    let listed = granted(agents.list_voice_agents(voxgate::proto::v1::ListVoiceAgentsRequest::default()).await);
    assert_eq!(listed.total_size, 0, "nothing was created");
}

async fn all_faulty_fields_are_named_at_once(world: World) {
    let agent = VoiceAgent {
        name: None,
        ws_url: Some("ftp://x".into()),
        auth_token: Some("é".into()),
        audio_format: Some(AudioFormat {
            encoding: Some(99),
            sample_rate_hz: Some(1),
            channels: Some(9),
            frame_ms: Some(1),
        }),
        external_agent_id: Some(String::new()),
        transfer_destination: Some("x".into()),
        max_concurrent: Some(0),
        reserved_inbound: Some(-1),
        token_lifetime: Some(99),
        subprotocol: Some(99),
        ws_disconnect_action: Some(99),
        metadata: labels(33),
        ..VoiceAgent::default()
    };
    let request = CreateVoiceAgentRequest { voice_agent: Some(agent), request_id: "x".into() };
    let mut named = faults(world.caller.agents().create_voice_agent(request).await);
    named.sort();
    let mut expected: Vec<String> = [
        "name",
        "ws_url",
        "auth_token",
        "audio_format.encoding",
        "audio_format.sample_rate_hz",
        "audio_format.channels",
        "audio_format.frame_ms",
        "external_agent_id",
        "transfer_destination",
        "max_concurrent",
        "reserved_inbound",
        "token_lifetime",
        "subprotocol",
        "ws_disconnect_action",
        "metadata",
    ]
    .iter()
    .map(|field| format!("voice_agent.{field}"))
    .collect();
    expected.push("request_id".to_owned());
    expected.sort();
    assert_eq!(named, expected);
}

async fn an_update_obeys_the_rules_of_create(world: World) {
    let agent = world.create(minimal_agent()).await;
    let mut agents = world.caller.agents();
    // Absent fields stay as they are in an update without a mask, so a missing one is no fault here.
    for (what, field, change) in WRONG.iter().filter(|(what, ..)| *what != "missing") {
        let patch = VoiceAgent { id: agent.id.clone(), ..with(*change) };
        let request = UpdateVoiceAgentRequest { voice_agent: Some(patch), update_mask: None };
        let named = faults(agents.update_voice_agent(request).await);
        assert_eq!(named, [format!("voice_agent.{field}")], "{field} {what}");
    }
    let request = voxgate::proto::v1::GetVoiceAgentRequest { id: agent.id.clone(), ..Default::default() };
    assert_eq!(granted(agents.get_voice_agent(request).await), agent, "nothing was changed");
}

async fn values_at_the_limits_are_accepted_and_kept_as_sent(world: World) {
    for (what, change) in RIGHT {
        let sent = with(*change);
        let created = world.create(sent.clone()).await;
        let format = sent.audio_format.and_then(|format| format.sample_rate_hz);
        assert_eq!(created.name, sent.name, "{what}");
        assert_eq!(created.ws_url, sent.ws_url, "{what}");
        assert_eq!(created.has_auth_token, sent.auth_token.is_some(), "{what}");
        assert_eq!(created.external_agent_id, sent.external_agent_id, "{what}");
        assert_eq!(created.transfer_destination, sent.transfer_destination, "{what}");
        assert_eq!(created.max_concurrent(), sent.max_concurrent.unwrap_or(10), "{what}");
        assert_eq!(created.metadata, sent.metadata, "{what}");
        assert_eq!(created.audio_format.unwrap_or_default().sample_rate_hz(), format.unwrap_or(16_000), "{what}");
    }
}

/// An agent with nothing left to its default but the enums, which have one value beside it.
fn full() -> VoiceAgent {
    VoiceAgent {
        auth_token: Some("first".into()),
        audio_format: Some(AudioFormat {
            encoding: Some(AudioEncoding::PcmS16le.into()),
            sample_rate_hz: Some(8_000),
            channels: Some(2),
            frame_ms: Some(40),
        }),
        external_agent_id: Some("crm-1".into()),
        transfer_destination: Some("+15550100".into()),
        max_concurrent: Some(5),
        reserved_inbound: Some(2),
        token_lifetime: Some(1),
        subprotocol: Some(1),
        ws_disconnect_action: Some(1),
        metadata: labels(2),
        ..minimal_agent()
    }
}

/// A path, another value for it, and what clearing it leaves; a field that is required cannot be cleared.
const FIELDS: &[(&str, Change, Option<Change>)] = &[
    ("name", |a| a.name = Some("Grace".into()), None),
    ("ws_url", |a| a.ws_url = Some("ws://other.example".into()), None),
    ("auth_token", |a| a.auth_token = Some("second".into()), Some(|a| a.auth_token = None)),
    (
        "audio_format",
        |a| {
            *audio(a) =
                AudioFormat { encoding: Some(3), sample_rate_hz: Some(8_000), channels: Some(1), frame_ms: Some(60) }
        },
        Some(|a| {
            *audio(a) =
                AudioFormat { encoding: Some(1), sample_rate_hz: Some(16_000), channels: Some(1), frame_ms: Some(20) }
        }),
    ),
    ("audio_format.encoding", |a| audio(a).encoding = Some(2), Some(|a| audio(a).encoding = Some(1))),
    (
        "audio_format.sample_rate_hz",
        |a| audio(a).sample_rate_hz = Some(48_000),
        Some(|a| audio(a).sample_rate_hz = Some(16_000)),
    ),
    ("audio_format.channels", |a| audio(a).channels = Some(1), Some(|a| audio(a).channels = Some(1))),
    ("audio_format.frame_ms", |a| audio(a).frame_ms = Some(10), Some(|a| audio(a).frame_ms = Some(20))),
    ("external_agent_id", |a| a.external_agent_id = Some("crm-2".into()), Some(|a| a.external_agent_id = None)),
    (
        "transfer_destination",
        |a| a.transfer_destination = Some("sip:desk@pbx.example".into()),
        Some(|a| a.transfer_destination = None),
    ),
    ("max_concurrent", |a| a.max_concurrent = Some(9), Some(|a| a.max_concurrent = Some(10))),
    ("reserved_inbound", |a| a.reserved_inbound = Some(1), Some(|a| a.reserved_inbound = Some(0))),
    ("token_lifetime", |a| a.token_lifetime = Some(2), Some(|a| a.token_lifetime = Some(1))),
    ("subprotocol", |a| a.subprotocol = Some(2), Some(|a| a.subprotocol = Some(1))),
    ("ws_disconnect_action", |a| a.ws_disconnect_action = Some(2), Some(|a| a.ws_disconnect_action = Some(1))),
    ("metadata", |a| a.metadata = labels(1), Some(|a| a.metadata.clear())),
];

/// What the caller set, read back; the secret from where it is shown.
async fn settings(world: &World, answered: VoiceAgent) -> VoiceAgent {
    let probe = AcquireSlotRequest { validate_only: true, ..acquire(&unique("call"), &answered.id) };
    let routing = granted(world.try_admit(probe).await).routing.expect("routing");
    assert_eq!(answered.has_auth_token, routing.auth_token.is_some());
    VoiceAgent {
        auth_token: routing.auth_token,
        id: String::new(),
        tenant_id: String::new(),
        has_auth_token: false,
        status: 0,
        revision: 0,
        etag: String::new(),
        created_at: None,
        updated_at: None,
        updated_by: String::new(),
        ..answered
    }
}

async fn each_field_is_set_kept_and_cleared(world: World) {
    let id = world.create(full()).await.id;
    let update = async |patch: VoiceAgent, paths: &[&str]| {
        let update_mask = prost_types::FieldMask { paths: paths.iter().map(ToString::to_string).collect() };
        let voice_agent = Some(VoiceAgent { id: id.clone(), ..patch });
        let request = UpdateVoiceAgentRequest { voice_agent, update_mask: Some(update_mask) };
        world.caller.agents().update_voice_agent(request).await
    };
    for (field, change, clear) in FIELDS {
        let mut changed = full();
        change(&mut changed);
        assert_ne!(changed, full(), "{field}");
        let mut alone = VoiceAgent::default();
        change(&mut alone);
        // Without a mask: what is present changes, all else stays. An empty mask is none.
        let after = settings(&world, granted(update(alone.clone(), &[]).await)).await;
        assert_eq!(after, changed, "{field} set without a mask");
        let after = settings(&world, granted(update(VoiceAgent::default(), &[]).await)).await;
        assert_eq!(after, changed, "{field} absent and kept without a mask");
        granted(update(full(), &["*"]).await);
        // With a mask: exactly that path, whatever else is present.
        let mut sent = VoiceAgent { name: Some("no".into()), max_concurrent: Some(77), metadata: labels(3), ..full() };
        change(&mut sent);
        let after = settings(&world, granted(update(sent, &[field]).await)).await;
        assert_eq!(after, changed, "{field} set with a mask");
        match clear {
            Some(clear) => {
                clear(&mut changed);
                let after = settings(&world, granted(update(VoiceAgent::default(), &[field]).await)).await;
                assert_eq!(after, changed, "{field} cleared");
            }
            None => {
                let named = faults(update(VoiceAgent::default(), &[field]).await);
                assert_eq!(named, [format!("voice_agent.{field}")], "{field} is required");
            }
        }
        granted(update(full(), &["*"]).await);
    }
}

/// A field that is added to the message is added to these tables or to those of `behavior_rules`.
#[test]
fn every_field_of_the_contract_is_in_the_tables() {
    let inside = |message: &str, prefix: &str| {
        let fields = super::descriptors::fields_of(message).into_iter();
        fields.map(|field| format!("{prefix}{field}")).collect::<BTreeSet<_>>()
    };
    let without = |mut all: BTreeSet<String>, others: &[&str]| {
        for other in others {
            assert!(all.remove(*other), "{other}");
        }
        all
    };
    let output_only = ["tenant_id", "has_auth_token", "status", "revision", "created_at", "updated_at", "updated_by"];
    let agent = without(inside("VoiceAgent", ""), &output_only);
    let agent = without(agent, &["id", "etag", "behavior"]);
    let agent: BTreeSet<_> = agent.union(&inside("AudioFormat", "audio_format.")).cloned().collect();
    assert_eq!(FIELDS.iter().map(|(field, ..)| (*field).to_owned()).collect::<BTreeSet<_>>(), agent);
    let mut behavior = without(inside("Behavior", ""), &["system_instruction", "controls"]);
    behavior.extend(inside("Voice", "voice."));
    behavior.extend(inside("Controls", "controls."));
    let tested = super::behavior_rules::FIELDS.iter().map(|(field, ..)| (*field).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(tested, behavior);
}
