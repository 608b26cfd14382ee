//! Trace contexts: what goes on to logs, Redis and nodes is of the standard's form and length, whatever came.
//!
//! The first line is `traceparent`, the rest `tracestate`.

use voxgate::domain::trace::TraceContext;

const PARENT_CHARS: usize = 55;
const STATE_MAX_BYTES: usize = 512;

pub(super) fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (parent, state) = text.split_once('\n').unwrap_or((&text, ""));
    let Some(read) = TraceContext::read(parent, state) else { return };
    let said = read.parent();
    assert_eq!(said.len(), PARENT_CHARS, "{said:?}");
    assert!(said.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-')), "{said:?}");
    assert_eq!(said[3..53], parent[3..53], "the ids are the caller's own");
    assert_ne!(read.trace_id().to_string(), "0".repeat(32), "{parent:?}");
    assert_ne!(read.span_id(), 0, "{parent:?}");
    let kept = read.state();
    assert!(kept.len() <= STATE_MAX_BYTES && (kept.is_empty() || state.contains(kept)), "{kept:?}");
    assert!(kept.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')), "{kept:?} could end a line");
    assert_eq!(TraceContext::read(&said, kept), Some(read), "it is read as it was written");
}
