//! Rules for numbers that callers write.

use super::violations::Fault;

pub fn one_of(value: Option<i32>, allowed: &[u32], default: u32, of: &str) -> Result<u32, Fault> {
    let Some(value) = value else { return Ok(default) };
    u32::try_from(value).ok().filter(|value| allowed.contains(value)).ok_or_else(|| {
        let list = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let of = if of.is_empty() { String::new() } else { format!(" for {of}") };
        Fault::new(format!("must be one of {list}{of}"))
    })
}

pub fn ranged(value: Option<i32>, min: u32, max: u32, default: u32) -> Result<u32, Fault> {
    let Some(value) = value else { return Ok(default) };
    u32::try_from(value)
        .ok()
        .filter(|value| (min..=max).contains(value))
        .ok_or_else(|| Fault::new(format!("must be {min} to {max}")))
}

/// As [`ranged`], where absent means that there is none.
pub fn optional_ranged(value: Option<i32>, min: u32, max: u32) -> Result<Option<u32>, Fault> {
    value.map(|value| ranged(Some(value), min, max, min)).transpose()
}
