//! What is measured of each RPC.
//!
//! The handle of each time series is kept once it was found: to find it by its labels takes longer than to count.

use std::{sync::OnceLock, time::Duration};

use http::Response;
use metrics::{Counter, Histogram};
use tonic::{Code, Status, body::Body};

use super::access::TABLE;

/// Status codes there are.
const CODES: usize = 17;

/// One for each line of [`TABLE`].
#[derive(Debug)]
pub(super) struct Meters(Box<[Meter]>);

#[derive(Debug)]
struct Meter {
    rpc: &'static str,
    answered: [OnceLock<Counter>; CODES],
    duration: OnceLock<Histogram>,
}

impl Meters {
    pub(super) fn new() -> Self {
        let meter = |(rpc, _): &(&'static str, _)| Meter {
            rpc,
            answered: [const { OnceLock::new() }; CODES],
            duration: OnceLock::new(),
        };
        Self(TABLE.iter().map(meter).collect())
    }

    /// Counts an answer of the RPC on the `line` of the table. Unary failures end in their headers; a success, and
    /// whatever a stream ends with, counts as OK here.
    pub(super) fn note(&self, line: usize, response: &Response<Body>, took: Duration) {
        let Meter { rpc, answered, duration } = &self.0[line];
        let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
        let found = || metrics::counter!("voxgate_rpcs_total", "rpc" => *rpc, "code" => code_name(code));
        // Each code is its number, from 0 to 16.
        answered[code as usize].get_or_init(found).increment(1);
        let found = || metrics::histogram!("voxgate_rpc_duration_seconds", "rpc" => *rpc);
        duration.get_or_init(found).record(took.as_secs_f64());
        tracing::debug!(
            rpc.method = rpc,
            rpc.code = code_name(code),
            rpc.duration_ms = took.as_millis(),
            "rpc answered"
        );
    }
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
