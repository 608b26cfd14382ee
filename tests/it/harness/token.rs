//! Callback tokens as a forger sees them: what they say, and the same said otherwise.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::Value;

pub(crate) const PREFIX: &str = "vg_cb_";

/// The header and the claims of a callback token, unverified.
pub(crate) fn parts(token: &str) -> (Value, Value) {
    let jwt = token.strip_prefix(PREFIX).expect("a callback token");
    let parts: Vec<Value> = jwt
        .split('.')
        .take(2)
        .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON"))
        .collect();
    let [header, claims] = <[_; 2]>::try_from(parts).expect("two parts");
    (header, claims)
}

/// What `token` says, with these claims changed and signed by `secret`.
pub(crate) fn signed_again(token: &str, secret: &[u8], changed: &[(&str, Value)]) -> String {
    let (header, mut claims) = parts(token);
    let text = |field: &str| Some(header[field].as_str().expect("text").to_owned());
    let header = Header { typ: text("typ"), kid: text("kid"), ..Header::default() };
    for (name, value) in changed {
        claims[*name] = value.clone();
    }
    let jwt = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).expect("signed");
    format!("{PREFIX}{jwt}")
}
