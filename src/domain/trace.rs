//! Where a piece of work stands in its caller's trace, as [W3C Trace Context](https://www.w3.org/TR/trace-context/) says it.
//!
//! What comes from outside is read or passed over: a header that is malformed, or longer than the standard's limits, is
//! as good as absent, and never an error. Deliberately absent: spans, which are made by `traces`.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Of version 00; what a later one adds stands behind.
const PARENT_BYTES: usize = 55;
/// Longer ones of later versions are passed over.
const PARENT_MAX_BYTES: usize = 256;
/// What the standard has everyone pass on.
const STATE_MAX_BYTES: usize = 512;
const STATE_MAX_MEMBERS: usize = 32;
const STATE_KEY_MAX_BYTES: usize = 256;
const STATE_VALUE_MAX_BYTES: usize = 256;

/// A span, by the trace that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace: TraceId,
    span: u64,
    sampled: bool,
    state: Option<Arc<str>>,
}

/// Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceId {
    pub const fn number(self) -> u128 {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl TraceContext {
    /// Nothing, where one of the ids is zero.
    pub fn new(trace: u128, span: u64, sampled: bool, state: &str) -> Option<Self> {
        let is_valid = trace != 0 && span != 0;
        is_valid.then(|| Self { trace: TraceId(trace), span, sampled, state: read_state(state) })
    }

    /// Of the headers `traceparent` and `tracestate`. A state that is malformed is passed over alone.
    pub fn read(parent: &str, state: &str) -> Option<Self> {
        if parent.len() > PARENT_MAX_BYTES || !parent.is_ascii() {
            return None;
        }
        let (known, rest) = parent.split_at_checked(PARENT_BYTES)?;
        let mut fields = known.split('-');
        let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let version = hex(version, 2)?;
        // Of a later version the same fields are read, and what it adds comes after another dash.
        let is_of_its_version = if version == 0 { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
        if version == 0xff || !is_of_its_version || fields.next().is_some() {
            return None;
        }
        let (trace, span, flags) = (hex(trace, 32)?, hex(span, 16)?, hex(flags, 2)?);
        Self::new(trace, u64::try_from(span).ok()?, flags & 1 == 1, state)
    }

    pub const fn trace_id(&self) -> TraceId {
        self.trace
    }

    pub const fn span_id(&self) -> u64 {
        self.span
    }

    pub const fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// As `tracestate`; empty where there is none.
    pub fn state(&self) -> &str {
        self.state.as_deref().unwrap_or_default()
    }

    /// As `traceparent`, in version 00.
    pub fn parent(&self) -> String {
        format!("00-{}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }

    /// The same span, of a trace that nobody behind it is to record.
    #[must_use]
    pub fn unsampled(self) -> Self {
        Self { sampled: false, ..self }
    }
}

/// Exactly so many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u128::from_str_radix(text, 16).ok())?
}

fn read_state(text: &str) -> Option<Arc<str>> {
    let text = text.trim_matches([' ', '\t']);
    let members = || text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty());
    let is_valid = text.len() <= STATE_MAX_BYTES && members().count() <= STATE_MAX_MEMBERS && members().all(is_member);
    (is_valid && members().next().is_some()).then(|| text.into())
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let of_key = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let of_value = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'=';
    (1..=STATE_KEY_MAX_BYTES).contains(&key.len())
        && (1..=STATE_VALUE_MAX_BYTES).contains(&value.len())
        && key.bytes().all(of_key)
        && value.bytes().all(of_value)
}

/// As it travels between replicas. What is not understood there is passed over too.
pub mod written {
    use serde::{Deserializer, Serializer};

    use super::{Deserialize, Serialize, TraceContext};

    #[derive(Serialize, Deserialize)]
    struct Written {
        parent: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        state: String,
    }

    pub fn serialize<S: Serializer>(trace: &Option<TraceContext>, serializer: S) -> Result<S::Ok, S::Error> {
        let written = |trace: &TraceContext| Written { parent: trace.parent(), state: trace.state().to_owned() };
        trace.as_ref().map(written).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TraceContext>, D::Error> {
        let written: Option<Written> = Option::deserialize(deserializer)?;
        Ok(written.and_then(|written| TraceContext::read(&written.parent, &written.state)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_reads_as_it_was_written() {
        let context = TraceContext::read(PARENT, "congo=t61rcWkgMzE, rojo=00f067aa0ba902b7").expect("valid");
        assert_eq!((context.parent(), context.trace_id().to_string()), (PARENT.to_owned(), PARENT[3..35].to_owned()));
        assert!(context.is_sampled());
        assert_eq!(context.state(), "congo=t61rcWkgMzE, rojo=00f067aa0ba902b7");
        let unsampled = context.unsampled();
        assert_eq!(unsampled.parent(), PARENT.replace("-01", "-00"));
        assert_eq!(TraceContext::read(&unsampled.parent(), unsampled.state()), Some(unsampled));
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over_and_its_flags_but_one_too() {
        for later in
            ["cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03", &format!("01{}-what-the-future", &PARENT[2..])]
        {
            assert_eq!(TraceContext::read(later, "").expect(later).parent(), PARENT);
        }
    }

    #[test]
    fn what_is_malformed_is_absent() {
        let huge = format!("01{}-{}", &PARENT[2..], "a".repeat(300));
        for wrong in [
            "",
            "00",
            "é",
            &PARENT[..54],
            &format!("{PARENT}-"),
            &format!("{PARENT}0"),
            &PARENT.to_uppercase(),
            &PARENT.replacen("00-", "ff-", 1),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &PARENT.replace("-01", "-0g"),
            &PARENT.replace("-01", "+01"),
            &PARENT.replace('f', "+"),
            &format!("01{}.what", &PARENT[2..]),
            &format!(" {PARENT}"),
            &"0".repeat(10_000),
            &huge,
        ] {
            assert_eq!(TraceContext::read(wrong, ""), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_malformed_state_is_passed_over_alone() {
        let many = (0..33).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
        let long = format!("a={}", "x".repeat(257));
        for wrong in ["x", "=", "a=", "=b", "A=b", "a=b=c", "a=\u{e9}", "a=b,c", &many, &long, &"a=b,".repeat(200)] {
            let read = TraceContext::read(PARENT, wrong).expect("the parent is valid");
            assert_eq!(read.state(), "", "{wrong:?}");
        }
    }

    #[test]
    fn a_replica_that_says_nothing_of_traces_or_something_strange_is_understood() {
        #[derive(Debug, Serialize, Deserialize, PartialEq)]
        struct Letter {
            #[serde(default, skip_serializing_if = "Option::is_none", with = "written")]
            trace: Option<TraceContext>,
        }
        let with = Letter { trace: TraceContext::read(PARENT, "a=b") };
        let text = serde_json::to_string(&with).expect("JSON");
        assert_eq!(text, format!(r#"{{"trace":{{"parent":"{PARENT}","state":"a=b"}}}}"#));
        assert_eq!(serde_json::from_str::<Letter>(&text).expect("a letter"), with);
        assert_eq!(serde_json::to_string(&Letter { trace: None }).expect("JSON"), "{}");
        for strange in ["{}", r#"{"trace":null}"#, r#"{"trace":{"parent":"?"}}"#] {
            assert_eq!(serde_json::from_str::<Letter>(strange).expect(strange), Letter { trace: None });
        }
    }
}
