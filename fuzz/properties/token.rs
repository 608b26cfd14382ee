//! Callback tokens and lease tokens prove what they were made for, and nothing else proves it.
//!
//! The first byte says what the rest is: `m` a change of the minted callback token, `l` one of the minted lease token,
//! `h` a header and claims that are signed with the right key (two lines, empty for the genuine ones), `b` the bytes of a
//! lease token, `s` the session that tokens are minted for; with anything else the whole input is presented as it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use voxgate::{
    domain::{
        Entropy, Env, Error, Timestamp,
        clock::ManualClock,
        error::CredentialFault,
        ids::{CallId, LeaseId, SessionId, TenantId, VoiceAgentId},
        lease::Direction,
        lease_token::{LeaseSigner, LeaseToken},
        session::{CallState, Record, Routing, Session, SessionStatus},
        voice_agent::TokenLifetime,
    },
    tenants::{TokenKey, TokenKind, TokenSigner},
};

const SECRET: [u8; 32] = [7; 32];
const KID: &str = "0badcafe";
const PREFIX: &str = "vg_cb_";
/// Longer ones are not even parsed.
const TOKEN_MAX_BYTES: usize = 2_048;
const START_SECS: i64 = 1_800_000_000;
/// Bytes of a lease token before they are text.
const LEASE_BYTES: usize = 73;

pub(super) fn check(input: &[u8]) {
    let world = World::new(b"s");
    let (mode, rest) = super::split_mode(input);
    match mode {
        b'm' => world.presents(&changed(&world.token(), rest)),
        b'l' => world.presents(&changed(&world.lease_token(), rest)),
        b'h' => world.a_signature_alone_is_not_enough(rest),
        b'b' => world.presents(&URL_SAFE_NO_PAD.encode(super::split_bytes::<LEASE_BYTES>(rest).0)),
        b's' => World::new(rest).tokens_say_what_they_were_made_of(),
        _ => world.presents(&String::from_utf8_lossy(input)),
    }
}

/// Bytes that differ from call to call and not from run to run.
#[derive(Debug, Default)]
struct Counting(AtomicU8);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.0.fetch_add(1, Ordering::Relaxed));
    }
}

/// Who signs, and the one session that tokens are made for. Two worlds of the same bytes are the same.
struct World {
    clock: Arc<ManualClock>,
    signer: TokenSigner,
    leases: LeaseSigner,
    session: Session,
}

impl World {
    fn new(bytes: &[u8]) -> Self {
        let ([flags, m0, m1, m2], rest) = super::split_bytes(bytes);
        let (fence, call) = super::split_bytes(rest);
        let micros = u32::from_be_bytes([0, m0, m1, m2]) % 1_000_000;
        let clock = Arc::new(ManualClock::at(Timestamp::from_micros(START_SECS * 1_000_000 + i64::from(micros))));
        let env = Env { clock: clock.clone(), entropy: Arc::new(Counting::default()) };
        let call = std::str::from_utf8(call).ok().and_then(|call| call.parse::<CallId>().ok());
        let call = call.unwrap_or_else(|| "call-1".parse().expect("a call id"));
        let session = session(&env, call, flags, i64::from_be_bytes(fence));
        let signer = TokenSigner::new(&TokenKey { kid: KID.to_owned(), secret: SECRET.to_vec() }, env);
        Self { clock, signer, leases: LeaseSigner::derived_from(&SECRET), session }
    }

    fn token(&self) -> String {
        self.signer.sign(&self.session).expect("a session is signed for").text
    }

    fn lease_token(&self) -> String {
        self.leases.sign(self.session.tenant, &self.session.call, self.session.claim()).to_string()
    }

    /// Whatever is presented is a minted token to the byte, or is refused.
    fn presents(&self, text: &str) {
        // The id of the next token is another one: only this very text is what was minted.
        let same = Self::new(b"s").token() == text;
        match self.signer.verify(TokenKind::Callback, text) {
            Ok(_) => assert!(same, "{text:?} was accepted"),
            Err(Error::Unauthenticated(CredentialFault::Invalid)) => assert!(!same, "the token was refused"),
            Err(error) => panic!("{text:?} is refused as something else: {error:?}"),
        }
        let (tenant, call) = (self.session.tenant, &self.session.call);
        let Ok(lease) = text.parse::<LeaseToken>() else {
            assert_ne!(text, self.lease_token(), "the lease token is malformed");
            return;
        };
        assert_eq!(lease.to_string(), text, "a lease token has one spelling");
        let proven = self.leases.verify(tenant, call, &lease);
        assert_eq!(proven.is_some(), text == self.lease_token(), "{text:?} proves {proven:?}");
    }

    /// Not the algorithm, the type, the key or the audience of the token's own choice; nor claims that name nobody.
    fn a_signature_alone_is_not_enough(&self, input: &[u8]) {
        let input = String::from_utf8_lossy(input);
        let (header, claims) = input.split_once('\n').unwrap_or((&input, ""));
        let minted = self.token();
        let genuine: Vec<_> = minted.trim_start_matches(PREFIX).split('.').collect();
        let part =
            |own: &str, genuine: &str| if own.is_empty() { genuine.to_owned() } else { URL_SAFE_NO_PAD.encode(own) };
        let signed = format!("{}.{}", part(header, genuine[0]), part(claims, genuine[1]));
        let seal = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), signed.as_bytes());
        let text = format!("{PREFIX}{signed}.{}", URL_SAFE_NO_PAD.encode(seal));
        let bearer = match self.signer.verify(TokenKind::Callback, &text) {
            Ok(bearer) => bearer,
            Err(Error::Unauthenticated(CredentialFault::Invalid | CredentialFault::Expired)) => return,
            Err(error) => panic!("{text:?} is refused as something else: {error:?}"),
        };
        assert!(text.len() <= TOKEN_MAX_BYTES, "{} bytes were accepted", text.len());
        let json = |part: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(part).expect("what was accepted is base64");
            serde_json::from_slice::<Value>(&bytes).expect("what was accepted is JSON")
        };
        let (header, claims) = signed.split_once('.').expect("two parts");
        let (header, claims) = (json(header), json(claims));
        if header.is_object() {
            for (name, value) in [("alg", "HS256"), ("typ", "vg-cb+jwt"), ("kid", KID)] {
                assert_eq!(header[name], value, "the header's {name} was accepted");
            }
        }
        if claims.is_object() {
            for (name, value) in [
                ("iss", "voxgate".to_owned()),
                ("aud", "voxgate-control".to_owned()),
                ("tenant", bearer.tenant.to_string()),
                ("call", bearer.call.to_string()),
                ("session", bearer.session.to_string()),
            ] {
                assert_eq!(claims[name], value, "the claim {name} was accepted");
            }
            assert_eq!(claims["fence"].as_i64(), Some(bearer.fence));
            assert!(claims["exp"].as_i64().is_some_and(|exp| exp > START_SECS), "expired, and accepted: {claims}");
            assert_eq!(claims["sandbox"].as_bool().unwrap_or(false), bearer.sandbox);
        }
    }

    fn tokens_say_what_they_were_made_of(&self) {
        let session = &self.session;
        let token = self.signer.sign(session).expect("a session is signed for");
        assert!(token.text.len() <= TOKEN_MAX_BYTES, "a token of {} bytes", token.text.len());
        let bearer = self.signer.verify(TokenKind::Callback, &token.text).expect("a token of this moment");
        assert_eq!((bearer.tenant, &bearer.call, bearer.session), (session.tenant, &session.call, session.id));
        assert_eq!((bearer.fence, bearer.sandbox), (session.fence, session.sandbox));
        assert_eq!((bearer.jti.to_string(), bearer.issued_at), (token.jti.clone(), session.started_at));
        self.lives_until_it_expires(&token.text, token.expires_at);

        let text = self.lease_token();
        let lease: LeaseToken = text.parse().expect("as it was printed");
        assert_eq!((lease.to_string(), *lease.claimed()), (text, session.claim()));
        assert_eq!(self.leases.verify(session.tenant, &session.call, &lease), Some(session.claim()));
        let other: CallId = "another".parse().expect("a call id");
        let moved = self.leases.verify(session.tenant, &other, &lease);
        assert_eq!(moved.is_some(), other == session.call, "a lease moved to another call");
    }

    fn lives_until_it_expires(&self, text: &str, expires_at: Timestamp) {
        let lifetime = match self.session.routing.token_lifetime {
            TokenLifetime::ThirtyMinWithRefresh => Duration::from_mins(30),
            TokenLifetime::WsSession => Duration::from_hours(24),
        };
        let left = expires_at.since(self.session.started_at);
        assert!(left <= lifetime && left + Duration::from_secs(1) > lifetime, "lives {left:?}");
        let microsecond = Duration::from_micros(1);
        self.clock.advance(left.saturating_sub(microsecond));
        assert!(self.signer.verify(TokenKind::Callback, text).is_ok(), "dead before its end");
        self.clock.advance(microsecond);
        let fault = self.signer.verify(TokenKind::Callback, text).expect_err("alive after its end");
        assert!(matches!(fault, Error::Unauthenticated(CredentialFault::Expired)), "{fault:?}");
    }
}

fn session(env: &Env, call: CallId, flags: u8, fence: i64) -> Session {
    let agent = VoiceAgentId::new(env);
    let mut routing = Routing::unknown();
    if flags & 4 != 0 {
        routing.token_lifetime = TokenLifetime::WsSession;
    }
    Session {
        id: SessionId::new(env),
        tenant: TenantId::new(env),
        call,
        agent,
        agent_revision: 1,
        lease: LeaseId::new(env, agent),
        fence,
        direction: if flags & 1 == 0 { Direction::Inbound } else { Direction::Outbound },
        node: None,
        sandbox: flags & 2 != 0,
        routing,
        metadata: serde_json::Map::new(),
        state: CallState::default(),
        record: Record::default(),
        status: SessionStatus::Active,
        outcome: None,
        started_at: env.now(),
        answered_at: None,
        ended_at: None,
        ends_at: None,
        direct: None,
        lease_expires_at: env.now(),
        lease_ttl: Duration::from_mins(1),
        version: 1,
    }
}

/// `text` with one thing done to it: what, where and with what, the input says.
fn changed(text: &str, input: &[u8]) -> String {
    let ([what, high, low], with) = super::split_bytes(input);
    let mut bytes = text.as_bytes().to_vec();
    let at = usize::from(u16::from_be_bytes([high, low])) % bytes.len();
    let to = at + (bytes.len() - at).min(with.len());
    match what % 6 {
        0 => bytes[at] ^= with.first().copied().unwrap_or(1),
        1 => bytes.truncate(at),
        2 => drop(bytes.splice(at..at, with.iter().copied())),
        3 => drop(bytes.splice(at..to, with.iter().copied())),
        4 => drop(bytes.remove(at)),
        _ => bytes.rotate_left(at),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
