//! Attacks on callback tokens: a verb with each of them is refused for the documented reason, and no node hears of it.
//!
//! A token is `vg_cb_` and a JWT that the service signs with HS256. Some forgers here have more than one could have: the
//! service's own key, for tokens that are signed well and are wrong all the same.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};
use tonic::Code;
use voxgate::{
    domain::Env,
    proto::v1::{GetCallStateRequest, HoldRequest, Slot},
};

use crate::harness::{
    client::{Explained as _, granted},
    raw_node::{RawNode, hello},
    token::{PREFIX, parts, signed_again},
    world::{World, on_both_backends, unique},
};

on_both_backends!(no_forged_token_drives_a_call);

const INVALID: (Code, &str) = (Code::Unauthenticated, "CREDENTIAL_INVALID");
const EXPIRED: (Code, &str) = (Code::Unauthenticated, "CREDENTIAL_EXPIRED");
const UNBOUND: (Code, &str) = (Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN");
/// A key that is not the service's.
const STRANGE: &[u8] = &[7; 32];
/// What credentials begin with is told apart by so much.
const SCHEME: usize = "vg_".len();

struct Attack {
    name: String,
    token: String,
    refusal: (Code, &'static str),
}

fn attack(name: impl Into<String>, token: impl Into<String>, refusal: (Code, &'static str)) -> Attack {
    Attack { name: name.into(), token: token.into(), refusal }
}

/// A good token in its parts, and what the service signs with.
struct Model {
    token: String,
    header: Value,
    claims: Value,
    /// As they stand in the token.
    texts: [String; 3],
    secret: Vec<u8>,
}

impl Model {
    fn of(token: &str, secret: Vec<u8>) -> Self {
        let (header, claims) = parts(token);
        let texts: Vec<_> = token[PREFIX.len()..].split('.').map(str::to_owned).collect();
        let texts = <[_; 3]>::try_from(texts).expect("three parts");
        Self { token: token.to_owned(), header, claims, texts, secret }
    }

    fn header(&self, changed: &[(&str, Value)]) -> Value {
        with(&self.header, changed)
    }

    /// A token of this header and the model's claims.
    fn headed(&self, header: &Value, secret: &[u8], algorithm: Algorithm) -> String {
        let signed = format!("{}.{}", encoded(header), self.texts[1]);
        let signature = crypto::sign(signed.as_bytes(), &EncodingKey::from_secret(secret), algorithm).expect("signed");
        format!("{PREFIX}{signed}.{signature}")
    }

    /// Signed as the service signs, but for these claims.
    fn claiming(&self, changed: &[(&str, Value)]) -> String {
        signed_again(&self.token, &self.secret, changed)
    }
}

fn with(object: &Value, changed: &[(&str, Value)]) -> Value {
    let mut object = object.clone();
    for (name, value) in changed {
        match value {
            Value::Null => drop(object.as_object_mut().expect("an object").remove(*name)),
            value => object[*name] = value.clone(),
        }
    }
    object
}

fn encoded(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

/// The algorithm is the service's to choose, whatever the header says of it.
fn other_algorithms(good: &Model) -> Vec<Attack> {
    let [_, claims, signature] = &good.texts;
    let mut attacks = Vec::new();
    for alg in [json!("none"), json!("None"), json!("NONE"), json!(""), json!("hs256"), json!(null), json!(0)] {
        let header = encoded(&good.header(&[("alg", alg.clone())]));
        attacks.push(attack(format!("alg {alg}, unsigned"), format!("{PREFIX}{header}.{claims}."), INVALID));
        let signed = format!("{PREFIX}{header}.{claims}.{signature}");
        attacks.push(attack(format!("alg {alg}, with the good signature"), signed, INVALID));
        let resigned = good.headed(&good.header(&[("alg", alg.clone())]), &good.secret, Algorithm::HS256);
        attacks.push(attack(format!("alg {alg}, signed by HS256"), resigned, INVALID));
    }
    for (alg, algorithm) in [("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)] {
        let header = good.header(&[("alg", alg.into())]);
        attacks.push(attack(
            format!("{alg} by the service's key"),
            good.headed(&header, &good.secret, algorithm),
            INVALID,
        ));
        // The header says HS256, the signature is another's.
        let confused = good.headed(&good.header, &good.secret, algorithm);
        attacks.push(attack(format!("{alg} under a header of HS256"), confused, INVALID));
    }
    for alg in ["HS384", "HS512", "RS256", "PS256", "ES256", "EdDSA"] {
        let token = good.headed(&good.header(&[("alg", alg.into())]), &good.secret, Algorithm::HS256);
        attacks.push(attack(format!("HS256 under a header of {alg}"), token, INVALID));
    }
    attacks
}

/// The key is the service's to choose too.
fn other_keys(good: &Model) -> Vec<Attack> {
    let kid = good.header["kid"].as_str().expect("a key's id");
    let hs256 = |header: &Value, secret: &[u8]| good.headed(header, secret, Algorithm::HS256);
    let own_jwk = json!({"kty": "oct", "alg": "HS256", "kid": kid, "k": URL_SAFE_NO_PAD.encode(STRANGE)});
    let mut attacks = vec![
        attack("signed by another key", hs256(&good.header, STRANGE), INVALID),
        attack("signed by nothing", hs256(&good.header, b""), INVALID),
        attack("signed by the key's public name", hs256(&good.header, kid.as_bytes()), INVALID),
        attack("a key in the header", hs256(&good.header(&[("jwk", own_jwk)]), STRANGE), INVALID),
    ];
    for field in ["jku", "x5u"] {
        let header = good.header(&[(field, "https://forger.example/keys".into())]);
        attacks.push(attack(format!("{field} in the header"), hs256(&header, STRANGE), INVALID));
    }
    for named in ["", "../../../../dev/null", "/dev/null", "' OR '1'='1", "*", "00000000", &kid.to_uppercase()] {
        let header = good.header(&[("kid", named.into())]);
        let empty = attack(format!("kid {named:?}, signed by nothing"), hs256(&header, b""), INVALID);
        attacks.extend([attack(format!("kid {named:?}"), hs256(&header, STRANGE), INVALID), empty]);
        if named != kid {
            let header = hs256(&header, &good.secret);
            attacks.push(attack(format!("kid {named:?}, signed by the service's key"), header, INVALID));
        }
    }
    let nameless = hs256(&good.header(&[("kid", Value::Null)]), &good.secret);
    attacks.push(attack("no kid", nameless, INVALID));
    attacks
}

/// Signed by the service's own key, for another purpose, too late, or for another call.
fn other_purposes(good: &Model) -> Vec<Attack> {
    let past = || Value::from(Env::system().now().as_secs() - 1);
    let mut attacks = Vec::new();
    for typ in [json!("JWT"), json!("vg-cb"), json!("VG-CB+JWT"), json!(null)] {
        let header = good.header(&[("typ", typ.clone())]);
        attacks.push(attack(format!("typ {typ}"), good.headed(&header, &good.secret, Algorithm::HS256), INVALID));
    }
    for (name, value) in [
        ("aud", json!("voxgate")),
        ("aud", json!("voxgate-control.example")),
        ("aud", json!(["another-service"])),
        ("aud", json!("")),
        ("aud", json!(null)),
        ("iss", json!("someone")),
        ("iss", json!(null)),
        ("exp", json!(null)),
        ("exp", json!("tomorrow")),
        ("jti", json!("7")),
        ("tenant", json!("")),
        ("call", json!("")),
        ("session", json!("")),
    ] {
        attacks.push(attack(format!("{name} {value}"), good.claiming(&[(name, value)]), INVALID));
    }
    attacks.push(attack("expired", good.claiming(&[("exp", past())]), EXPIRED));
    attacks.push(attack(
        "for another audience, and expired",
        good.claiming(&[("exp", past()), ("aud", "x".into())]),
        INVALID,
    ));
    let forged = signed_again(&good.token, STRANGE, &[("exp", past())]);
    attacks.push(attack("signed by another key, and expired", forged, INVALID));
    attacks
}

/// The good token, spoiled.
fn spoiled(good: &Model, other: &Slot) -> Vec<Attack> {
    let [header, claims, signature] = &good.texts;
    let other = Model::of(&other.callback_token, Vec::new());
    let changed = |claim, value: Value| encoded(&with(&good.claims, &[(claim, value)]));
    let later = changed("exp", json!(4_102_444_800_i64));
    let renamed = changed("call", other.claims["call"].clone());
    let jwt = &good.token[PREFIX.len()..];
    let last = signature.chars().last().expect("a signature");
    let tail = &signature[..signature.len() - last.len_utf8()];
    let mut spoiled = vec![
        ("unsigned", format!("{PREFIX}{header}.{claims}.")),
        ("two parts", format!("{PREFIX}{header}.{claims}")),
        ("five parts", format!("{PREFIX}{header}.{claims}.{signature}.{claims}.{signature}")),
        ("another call's claims", format!("{PREFIX}{header}.{}.{signature}", other.texts[1])),
        ("another call's signature", format!("{PREFIX}{header}.{claims}.{}", other.texts[2])),
        ("a later expiry under the old signature", format!("{PREFIX}{header}.{later}.{signature}")),
        ("another call's name under the old signature", format!("{PREFIX}{header}.{renamed}.{signature}")),
        ("no prefix", jwt.to_owned()),
        ("the prefix twice", format!("{PREFIX}{PREFIX}{jwt}")),
        ("the prefix in capitals", format!("VG_CB_{jwt}")),
        ("a key's prefix", format!("vg_live_{jwt}")),
        ("more than a token has", format!("{}{}", good.token, "x".repeat(2_048))),
    ];
    for tail in ["x", "=", "==", ".", "..", "%00", ",", &format!(",{}", good.token), &format!(" {}", good.token)] {
        // Blanks would be no part of the header's value.
        spoiled.push(("trailing bytes", format!("{}{tail}", good.token)));
    }
    // Its lowest two bits stand for nothing: a lax reader takes four spellings of one signature.
    let alphabet = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']);
    let spellings =
        alphabet.filter(|letter| *letter != last).map(|letter| format!("{PREFIX}{header}.{claims}.{tail}{letter}"));
    spoiled.extend(spellings.map(|token| ("another last letter", token)));
    spoiled.into_iter().map(|(name, token)| attack(name, token, INVALID)).collect()
}

fn truncated(good: &Model) -> Vec<Attack> {
    let cut = |length: usize| attack(format!("cut to {length} bytes"), &good.token[..length], INVALID);
    (SCHEME..good.token.len()).step_by(3).map(cut).collect()
}

async fn no_forged_token_drives_a_call(world: World) {
    let (raw, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let commands = raw.obey();
    let agent = world.agent(2).await;
    let (slot, other) = (world.admit(&agent.id).await, world.admit(&agent.id).await);
    let neighbour = world.neighbour().await;
    let theirs = neighbour.admit(&neighbour.agent(1).await.id).await;
    let good = Model::of(&slot.callback_token, world.server.expect("a shared server").token_key().await.secret);
    let mut attacks = vec![
        attack("another call's token", &other.callback_token, UNBOUND),
        attack("another tenant's token", &theirs.callback_token, UNBOUND),
    ];
    attacks.extend(other_algorithms(&good));
    attacks.extend(other_keys(&good));
    attacks.extend(other_purposes(&good));
    attacks.extend(spoiled(&good, &other));
    attacks.extend(truncated(&good));
    let hold = || HoldRequest { call_id: slot.call_id.clone(), ..HoldRequest::default() };
    let mut wrong = Vec::new();
    for Attack { name, token, refusal } in &attacks {
        match world.caller.with(token).calls().hold(hold()).await {
            Err(status) if (status.code(), &*status.reason()) == *refusal => {}
            answer => wrong.push(format!("{name}: expected {refusal:?}, was answered {answer:?}")),
        }
    }
    let refused_as = |refusal| attacks.iter().filter(|attack| attack.refusal == refusal).count();
    println!(
        "{} forged tokens: {} invalid, {} expired, {} of other calls",
        attacks.len(),
        refused_as(INVALID),
        refused_as(EXPIRED),
        refused_as(UNBOUND)
    );
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    for call in [&slot, &other] {
        assert_eq!(commands.of_call(&call.call_id), [], "no node has heard of it");
    }
    // The model is good: spelled again from its parts as well as at first.
    let state = GetCallStateRequest { call_id: slot.call_id.clone(), ..GetCallStateRequest::default() };
    let service = world.caller.with(&good.claiming(&[]));
    assert!(!granted(service.calls().get_call_state(state).await).call_state.expect("a state").held);
    granted(world.caller.with(&good.token).calls().hold(hold()).await);
    assert_eq!(commands.of_call(&slot.call_id).len(), 1);
}
