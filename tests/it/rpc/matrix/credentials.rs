//! The credentials there are, good and bad, as callers who bear them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tonic::Code;
use voxgate::{
    domain::Env,
    proto::v1::{
        CreateApiKeyRequest, CreateApiKeyResponse, ListVoiceAgentsRequest, RevokeApiKeyRequest, RotateApiKeyRequest,
    },
};

use super::{
    Target,
    holdings::{Holdings, Home},
};
use crate::harness::{
    client::{Caller, Explained as _, granted},
    token::{parts, signed_again},
    world::{TENANT_SCOPES, World, eventually},
};

pub(super) const ALL_SCOPES: [&str; 9] = [
    "voice_agents:read",
    "voice_agents:write",
    "voice_agents:secrets",
    "slots:acquire",
    "ai_sessions:read",
    "ai_sessions:control_admin",
    "events:read",
    "nodes:connect",
    "tenants:admin",
];

#[derive(Debug)]
pub(super) struct Credential {
    pub(super) name: String,
    pub(super) caller: Caller,
    pub(super) power: Power,
}

#[derive(Debug)]
pub(super) enum Power {
    /// It opens nothing, for this reason.
    None(&'static str),
    Key {
        /// Whose key it is: of one of the two tenants, or of a third one.
        home: Option<Target>,
        scopes: Vec<&'static str>,
        sandbox: bool,
    },
    Token(Bearer),
}

/// Whose callback token it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bearer {
    /// Of the call that the request names.
    OwnCall,
    /// Of another call of the own tenant.
    Peer,
    /// Of another call of the other tenant.
    Foreign,
    /// Of the call that the request names, whose session has ended.
    Ended,
    /// A connection token of a direct session of the own tenant.
    Client,
}

impl Bearer {
    pub(super) const fn home(self) -> Target {
        match self {
            Self::Foreign => Target::Other,
            Self::OwnCall | Self::Peer | Self::Ended | Self::Client => Target::Own,
        }
    }
}

/// All of them. `standing` is what requests name that must not succeed.
pub(super) async fn credentials(own: &Home, other: &Home, standing: &Holdings, ended: &Holdings) -> Vec<Credential> {
    let mut all = bad_keys(&own.world).await;
    all.extend(bad_tokens(own, &standing.token));
    all.extend(keys(&own.world).await);
    let tokens = [
        ("the call's token", &standing.token, Bearer::OwnCall),
        ("another call's token", &own.peer.callback_token, Bearer::Peer),
        ("a token of another tenant's call", &other.peer.callback_token, Bearer::Foreign),
        ("the token of an ended session", &ended.token, Bearer::Ended),
        ("a connection token", &own.connection_token, Bearer::Client),
    ];
    all.extend(tokens.map(|(name, token, bearer)| Credential {
        name: name.to_owned(),
        caller: own.world.caller.with(token),
        power: Power::Token(bearer),
    }));
    all
}

fn useless(name: &str, caller: Caller, reason: &'static str) -> Credential {
    Credential { name: name.to_owned(), caller, power: Power::None(reason) }
}

/// Keys that could do everything, and can no longer.
async fn bad_keys(world: &World) -> Vec<Credential> {
    let mut tenants = world.operator.tenants();
    let (revoked, rotated, expiring) =
        (world.new_key(&ALL_SCOPES).await, world.new_key(&ALL_SCOPES).await, expiring(world).await);
    let id = |key: &CreateApiKeyResponse| key.api_key.as_ref().expect("the key").id.clone();
    granted(tenants.revoke_api_key(RevokeApiKeyRequest { id: id(&revoked) }).await);
    let at_once = RotateApiKeyRequest { id: id(&rotated), grace_period: Some(prost_types::Duration::default()) };
    granted(tenants.rotate_api_key(at_once).await);
    let caller = &world.caller;
    let unknown: String = {
        // A key that was given out and deleted would look like this: right length, right alphabet, nobody's.
        let (prefix, random) = revoked.secret.split_at("vg_live_".len());
        prefix.chars().chain(random.chars().rev()).collect()
    };
    let expired = caller.with(&expiring.secret);
    until_expired(&expired).await;
    vec![
        useless("none", Caller::anonymous(&world.addr), "CREDENTIAL_MISSING"),
        useless("garbage", caller.with("garbage"), "CREDENTIAL_INVALID"),
        useless("an unknown key", caller.with(&unknown), "CREDENTIAL_INVALID"),
        useless("an expired key", expired, "CREDENTIAL_EXPIRED"),
        useless("a revoked key", caller.with(&revoked.secret), "CREDENTIAL_INVALID"),
        useless("a rotated key's old secret", caller.with(&rotated.secret), "CREDENTIAL_INVALID"),
    ]
}

async fn expiring(world: &World) -> CreateApiKeyResponse {
    // It must still be to come when the request arrives.
    let soon = Env::system().now().as_secs() + 10;
    let request = CreateApiKeyRequest {
        tenant_id: Some(world.tenant.clone()),
        name: "brief".into(),
        scopes: ALL_SCOPES.map(str::to_owned).to_vec(),
        rate_limit_per_min: Some(100_000),
        expires_at: Some(prost_types::Timestamp { seconds: soon, nanos: 0 }),
        sandbox: false,
    };
    granted(world.operator.tenants().create_api_key(request).await)
}

async fn until_expired(caller: &Caller) {
    let refused = async || caller.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await.err();
    let status = eventually("the end of the key", refused).await;
    assert_eq!((status.code(), &*status.reason()), (Code::Unauthenticated, "CREDENTIAL_EXPIRED"));
}

/// Three ways to spoil a token that is good.
fn bad_tokens(own: &Home, good: &str) -> Vec<Credential> {
    let (header, claims) = parts(good);
    let mut none = header.clone();
    none["alg"] = "none".into();
    let [none, claims] = [none, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let bad = [
        ("a truncated token", good[..good.len() - 1].to_owned()),
        ("a token signed by another key", signed_again(good, &[7; 32], &[])),
        ("an unsigned token", format!("vg_cb_{none}.{claims}.")),
    ];
    bad.map(|(name, token)| useless(name, own.world.caller.with(&token), "CREDENTIAL_INVALID")).into()
}

async fn keys(world: &World) -> Vec<Credential> {
    let mut sets: Vec<(String, Vec<&'static str>)> =
        ALL_SCOPES.iter().map(|scope| (format!("{scope} alone"), vec![*scope])).collect();
    sets.push(("a key without scopes".into(), Vec::new()));
    sets.push(("a key with all scopes of a tenant".into(), TENANT_SCOPES.to_vec()));
    sets.push(("a key with all scopes".into(), ALL_SCOPES.to_vec()));
    let mut keys = Vec::new();
    for (name, scopes) in sets {
        let caller = world.caller_with(&scopes).await;
        let power = Power::Key { home: Some(Target::Own), scopes, sandbox: false };
        keys.push(Credential { name, caller, power });
    }
    let sandbox = World { sandbox: true, ..world.clone() };
    keys.push(Credential {
        name: "a sandbox key with all scopes".into(),
        caller: sandbox.caller_with(&ALL_SCOPES).await,
        power: Power::Key { home: Some(Target::Own), scopes: ALL_SCOPES.to_vec(), sandbox: true },
    });
    keys.push(Credential {
        name: "an operator's key".into(),
        caller: world.live_operator.clone(),
        power: Power::Key { home: None, scopes: ALL_SCOPES.to_vec(), sandbox: false },
    });
    keys
}
