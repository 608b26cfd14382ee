//! Sends touch tones to the caller's side.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Executor, Rules};
use crate::domain::violations::Fault;

const DIGITS_MAX: usize = 64;

/// `0-9`, `A-D`, `*` and `#`, and the pauses `w` and `W`; 1 to 64 of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digits(String);

impl Digits {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digits {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let known = |b: u8| b.is_ascii_digit() || matches!(b, b'A'..=b'D' | b'*' | b'#' | b'w' | b'W');
        if (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(known) {
            return Ok(Self(text.to_owned()));
        }
        Err(Fault::new(format!("must be 1 to {DIGITS_MAX} of 0-9, A-D, *, #, w and W")))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendDtmf {
    pub digits: Digits,
}

impl Rules for SendDtmf {
    const EXECUTOR: Executor = Executor::Node;
}
