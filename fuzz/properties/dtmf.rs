//! Touch tones: a node is sent the keys of a telephone and pauses, and never more than it dials in one go.

use prost::Message as _;
use voxgate::{domain::verb::Digits, proto::v1::SendDtmfRequest};

const KEYS: &str = "0123456789ABCD*#wW";
const KEYS_MAX: usize = 64;

pub(super) fn check(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        holds(text);
    }
    // The same bytes as the request that carries the digits: protobuf alone says what is text.
    if let Ok(request) = SendDtmfRequest::decode(input) {
        holds(&request.digits);
    }
}

fn holds(text: &str) {
    let legal = text.chars().all(|c| KEYS.contains(c)) && (1..=KEYS_MAX).contains(&text.chars().count());
    match text.parse::<Digits>() {
        Ok(digits) => {
            assert!(legal, "{text:?} was accepted");
            assert_eq!(digits.as_str(), text, "digits are sent as they were asked for");
            let kept = serde_json::to_string(&digits).expect("digits are kept as JSON");
            assert_eq!(serde_json::from_str::<Digits>(&kept).expect("as it was kept"), digits);
        }
        Err(fault) => {
            assert!(!legal, "{text:?} was refused");
            assert_eq!(fault.reason, "FIELD_INVALID", "{text:?}");
        }
    }
}
