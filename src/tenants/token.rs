//! Tokens bound to one call's session: a prefix that says which kind it is, and a signed JWT (RFC 7519).
//!
//! HS256 and nothing else: the algorithm is pinned, never read from the token. Issuer, audience and type are
//! checked, so that no token made for another purpose under the same key passes, one of the other kind among them.
//! Whether the session still lives is for the caller to ask: a token dies with it.

use std::{fmt, str::FromStr as _, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::domain::{
    Env, Error, Result,
    clock::Timestamp,
    error::CredentialFault,
    ids::{CallId, SessionId, TenantId},
    principal::CallPrincipal,
    session::Session,
    voice_agent::TokenLifetime,
};

use super::TokenKey;

const ISSUER: &str = "voxgate";
/// A token of ours has some 600 characters; no other need be parsed.
const MAX_BYTES: usize = 2_048;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// With it the AI service drives the call.
    Callback,
    /// With it the client of a direct session connects, and the AI service verifies the client.
    Connection,
}

impl TokenKind {
    const ALL: [Self; 2] = [Self::Callback, Self::Connection];

    /// As which a credential is to be read, if it is a token.
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| text.starts_with(kind.prefix()))
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Callback => "vg_cb_",
            Self::Connection => "vg_ct_",
        }
    }

    const fn audience(self) -> &'static str {
        match self {
            Self::Callback => "voxgate-control",
            Self::Connection => "voxgate-connection",
        }
    }

    /// Of the JWT.
    const fn typ(self) -> &'static str {
        match self {
            Self::Callback => "vg-cb+jwt",
            Self::Connection => "vg-ct+jwt",
        }
    }
}

#[derive(Clone)]
pub struct SignedToken {
    pub text: String,
    pub jti: String,
    pub expires_at: Timestamp,
}

impl fmt::Debug for SignedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedToken").field("jti", &self.jti).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    iat: i64,
    exp: i64,
    jti: String,
    tenant: String,
    call: String,
    session: String,
    fence: i64,
    /// `iat` to the microsecond: of a token and a WebSocket's end, one is the earlier.
    #[serde(default)]
    iat_us: i64,
    #[serde(default)]
    sandbox: bool,
}

/// Makes and reads tokens.
pub struct TokenSigner {
    kid: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    env: Env,
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSigner").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// The age at which a token is replaced: the one before lives on for what a node takes to pass the new one on.
const REFRESH_AFTER: Duration = Duration::from_mins(25);

/// The longest that any token lives.
pub(super) const LIFETIME_MAX: Duration = lifetime(TokenLifetime::WsSession);

/// How long a token of this lifetime lives.
const fn lifetime(lifetime: TokenLifetime) -> Duration {
    match lifetime {
        TokenLifetime::ThirtyMinWithRefresh => Duration::from_mins(30),
        TokenLifetime::WsSession => Duration::from_hours(24),
    }
}

const fn whole_second(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds.saturating_mul(1_000_000))
}

impl TokenSigner {
    pub fn new(key: &TokenKey, env: Env) -> Self {
        Self {
            kid: key.kid.clone(),
            encoding: EncodingKey::from_secret(&key.secret),
            decoding: DecodingKey::from_secret(&key.secret),
            env,
        }
    }

    /// When a token that was made at `made_at` for the session's call is to be replaced; never, if it lives as long as the
    /// call's WebSocket.
    pub fn refresh_at(&self, session: &Session, made_at: Timestamp) -> Option<Timestamp> {
        match session.routing.token_lifetime {
            TokenLifetime::ThirtyMinWithRefresh => Some(made_at.plus(REFRESH_AFTER)),
            TokenLifetime::WsSession => None,
        }
    }

    /// A fresh callback token for the session's call.
    pub fn sign(&self, session: &Session) -> Result<SignedToken> {
        let now = self.env.now();
        self.sign_as(TokenKind::Callback, session, now, now.plus(lifetime(session.routing.token_lifetime)))
    }

    /// The token with which the client of a direct session connects: as good as long as the session lasts at most.
    pub fn sign_connection(&self, session: &Session) -> Result<SignedToken> {
        self.sign_as(TokenKind::Connection, session, self.env.now(), session.expires_at())
    }

    fn sign_as(&self, kind: TokenKind, session: &Session, now: Timestamp, until: Timestamp) -> Result<SignedToken> {
        // A JWT expires at a whole second.
        let expires_at = until.as_secs();
        let jti = self.env.uuid().to_string();
        let header =
            Header { typ: Some(kind.typ().to_owned()), kid: Some(self.kid.clone()), ..Header::new(Algorithm::HS256) };
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: kind.audience().to_owned(),
            iat: now.as_secs(),
            exp: expires_at,
            jti: jti.clone(),
            tenant: session.tenant.to_string(),
            call: session.call.to_string(),
            session: session.id.to_string(),
            fence: session.fence,
            iat_us: now.as_micros(),
            sandbox: session.sandbox,
        };
        let jwt = jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(Error::internal)?;
        Ok(SignedToken { text: format!("{}{jwt}", kind.prefix()), jti, expires_at: whole_second(expires_at) })
    }

    /// Reads a presented token of that kind, prefix included.
    pub fn verify(&self, kind: TokenKind, text: &str) -> Result<CallPrincipal> {
        let (principal, expires_at) = self.read_as(kind, text)?;
        if expires_at <= self.env.clock.now() {
            return Err(Error::Unauthenticated(CredentialFault::Expired));
        }
        Ok(principal)
    }

    /// Whose token of whichever kind it is, and until when it lives, or has lived.
    pub fn read(&self, text: &str) -> Result<(CallPrincipal, Timestamp)> {
        let kind = TokenKind::of(text).ok_or(Error::Unauthenticated(CredentialFault::Invalid))?;
        self.read_as(kind, text)
    }

    fn read_as(&self, kind: TokenKind, text: &str) -> Result<(CallPrincipal, Timestamp)> {
        let invalid = || Error::Unauthenticated(CredentialFault::Invalid);
        let jwt = text.strip_prefix(kind.prefix()).filter(|_| text.len() <= MAX_BYTES).ok_or_else(invalid)?;
        let header = jsonwebtoken::decode_header(jwt).map_err(|_| invalid())?;
        if header.typ.as_deref() != Some(kind.typ()) || header.kid.as_deref() != Some(self.kid.as_str()) {
            return Err(invalid());
        }
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_issuer(&[ISSUER]);
        rules.set_audience(&[kind.audience()]);
        rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        // Expiry is checked below, against the clock that we were handed.
        rules.validate_exp = false;
        let claims = jsonwebtoken::decode::<Claims>(jwt, &self.decoding, &rules).map_err(|_| invalid())?.claims;
        let expires_at = whole_second(claims.exp);
        let principal = CallPrincipal {
            tenant: TenantId::from_str(&claims.tenant).map_err(|_| invalid())?,
            call: CallId::from_str(&claims.call).map_err(|_| invalid())?,
            session: SessionId::from_str(&claims.session).map_err(|_| invalid())?,
            fence: claims.fence,
            jti: claims.jti.parse().map_err(|_| invalid())?,
            issued_at: Timestamp::from_micros(claims.iat_us),
            sandbox: claims.sandbox,
        };
        Ok((principal, expires_at))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;
    use crate::domain::{
        clock::{ManualClock, SystemEntropy},
        direct::{Direct, DirectRequest},
        ids::{LeaseId, VoiceAgentId},
        lease::Direction,
        session::{CallState, Record, Routing, SessionStatus},
        voice_agent::{AudioFormat, Subprotocol, WsDisconnectAction},
    };

    const PREFIX: &str = TokenKind::Callback.prefix();

    fn signer() -> (Arc<ManualClock>, TokenSigner) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_800_000_000_000)));
        let env = Env { clock: clock.clone(), entropy: Arc::new(SystemEntropy) };
        (clock, TokenSigner::new(&TokenKey::generate(&env), env))
    }

    fn session(env: &Env) -> Session {
        let agent = VoiceAgentId::new(env);
        Session {
            id: SessionId::new(env),
            tenant: TenantId::new(env),
            call: "call-1".parse().expect("a call id"),
            agent,
            agent_revision: 1,
            lease: LeaseId::new(env, agent),
            fence: 7,
            direction: Direction::Inbound,
            node: None,
            sandbox: false,
            routing: Routing {
                ws_url: "wss://ai.example".into(),
                audio_format: AudioFormat::default(),
                subprotocol: Subprotocol::AudioDrachtioOrg,
                ws_disconnect_action: WsDisconnectAction::Hangup,
                transfer_destination: None,
                token_lifetime: TokenLifetime::ThirtyMinWithRefresh,
                behavior: None,
            },
            metadata: serde_json::Map::new(),
            state: CallState::default(),
            record: Record::default(),
            ends_at: None,
            direct: None,
            status: SessionStatus::Active,
            outcome: None,
            started_at: env.now(),
            answered_at: None,
            ended_at: None,
            lease_expires_at: env.now(),
            lease_ttl: Duration::from_mins(1),
            version: 1,
        }
    }

    #[test]
    fn a_token_names_its_call_until_minute_thirty() {
        let (clock, signer) = signer();
        let session = session(&signer.env);
        let token = signer.sign(&session).expect("signed");
        let bearer = signer.verify(TokenKind::Callback, &token.text).expect("own token");
        assert_eq!((bearer.call, bearer.session, bearer.fence), (session.call, session.id, 7));
        clock.advance(Duration::from_secs(30 * 60 - 1));
        assert!(signer.verify(TokenKind::Callback, &token.text).is_ok());
        clock.advance(Duration::from_secs(1));
        let fault = signer.verify(TokenKind::Callback, &token.text).expect_err("expired");
        assert!(matches!(fault, Error::Unauthenticated(CredentialFault::Expired)));
    }

    #[test]
    fn forged_tokens_are_refused() {
        let (_, signer) = signer();
        let (_, other) = self::signer();
        let session = session(&signer.env);
        let good = signer.sign(&session).expect("signed").text;
        let parts: Vec<_> = good.trim_start_matches(PREFIX).split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"none","typ":"vg-cb+jwt","kid":"{}"}}"#, signer.kid));
        let forged = [
            other.sign(&session).expect("signed").text,
            good[..good.len() - 1].to_owned(),
            format!("{PREFIX}{none}.{}.", parts[1]),
            format!("{PREFIX}{none}.{}.{}", parts[1], parts[2]),
            format!("{PREFIX}{}.{}.{}", parts[0], parts[0], parts[2]),
            parts.join("."),
            PREFIX.to_owned(),
            format!("{PREFIX}{}", "é".repeat(2_000)),
        ];
        for text in forged {
            let fault = signer.verify(TokenKind::Callback, &text).expect_err("forged");
            assert!(matches!(fault, Error::Unauthenticated(CredentialFault::Invalid)), "{text}");
        }
    }

    #[test]
    fn a_token_of_one_kind_never_passes_for_the_other_whatever_stands_in_front() {
        let (clock, signer) = signer();
        let session = Session { ends_at: Some(signer.env.now().plus(Duration::from_mins(1))), ..session(&signer.env) };
        let request = DirectRequest::default();
        let direct = Some(Arc::new(Direct::new(request, &session.routing, session.id)));
        let session = Session { direct, ..session };
        let (callback, connection) = (signer.sign(&session), signer.sign_connection(&session));
        let kinds = [(TokenKind::Callback, callback), (TokenKind::Connection, connection)];
        for (kind, token) in kinds {
            let text = token.expect("signed").text;
            assert_eq!(TokenKind::of(&text), Some(kind));
            assert_eq!(signer.verify(kind, &text).expect("own token").session, session.id);
            assert!(signer.read(&text).is_ok(), "either can be revoked");
            for other in TokenKind::ALL.into_iter().filter(|other| *other != kind) {
                let renamed = format!("{}{}", other.prefix(), text.trim_start_matches(kind.prefix()));
                for text in [&text, &renamed] {
                    let fault = signer.verify(other, text).expect_err("of another kind");
                    assert!(matches!(fault, Error::Unauthenticated(CredentialFault::Invalid)), "{kind:?}");
                }
            }
        }
        let text = signer.sign_connection(&session).expect("signed").text;
        clock.advance(Duration::from_mins(1));
        let fault = signer.verify(TokenKind::Connection, &text).expect_err("as old as its session");
        assert!(matches!(fault, Error::Unauthenticated(CredentialFault::Expired)));
    }
}
