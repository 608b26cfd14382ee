//! Keyset pages: stable while rows come and go, and as cheap at the end as at the start.
//!
//! A page token is opaque to callers and names the last row seen together with a digest of the filter it
//! was made for; with another filter it is refused, since the pages would not belong together.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::{clock::Timestamp, error::Error, hash::Sha256};

pub const DEFAULT_PAGE_SIZE: u16 = 20;
pub const MAX_PAGE_SIZE: u16 = 100;
const TOKEN_BYTES: usize = 32;

/// Position of a row in a list that is ordered newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub created_at: Timestamp,
    pub id: Uuid,
}

/// What a list is asked for.
#[derive(Debug, Clone, Copy)]
pub struct PageRequest {
    pub size: u16,
    pub after: Option<Cursor>,
}

/// One page, and where the next one starts if there is one.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<Cursor>,
    pub total_size: i64,
}

impl<T> Page<T> {
    /// Makes a page of rows of which one more than `size` was asked for.
    pub fn of(mut rows: Vec<T>, size: u16, total_size: i64, cursor: impl Fn(&T) -> Cursor) -> Self {
        let more = rows.len() > usize::from(size);
        rows.truncate(usize::from(size));
        let next = if more { rows.last().map(cursor) } else { None };
        Self { items: rows, next, total_size }
    }
}

impl PageRequest {
    /// Reads a request's `page_size` (0 means the default; more than the maximum is clamped) and
    /// `page_token`. `filter` is any text that tells one list from another.
    pub fn parse(page_size: i32, page_token: &str, filter: &str) -> Result<Self, Error> {
        if page_size < 0 {
            return Err(Error::invalid("page_size", "must not be negative"));
        }
        let size = match u16::try_from(page_size).unwrap_or(MAX_PAGE_SIZE) {
            0 => DEFAULT_PAGE_SIZE,
            size => size.min(MAX_PAGE_SIZE),
        };
        let after = match page_token {
            "" => None,
            token => Some(decode(token, filter).ok_or(Error::PageTokenInvalid)?),
        };
        Ok(Self { size, after })
    }
}

/// Whether it may be a token at all, of whichever list.
pub fn looks_like_token(text: &str) -> bool {
    matches!(URL_SAFE_NO_PAD.decode(text), Ok(bytes) if bytes.len() == TOKEN_BYTES)
}

/// The token of the page after `cursor` in the list of `filter`.
pub fn token(cursor: Cursor, filter: &str) -> String {
    let mut bytes = Vec::with_capacity(TOKEN_BYTES);
    bytes.extend_from_slice(&cursor.created_at.as_micros().to_be_bytes());
    bytes.extend_from_slice(cursor.id.as_bytes());
    bytes.extend_from_slice(&Sha256::of(filter).as_bytes()[..8]);
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(token: &str, filter: &str) -> Option<Cursor> {
    if token.len() > 64 {
        return None;
    }
    let bytes: [u8; TOKEN_BYTES] = URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
    let (micros, rest) = bytes.split_first_chunk::<8>()?;
    let (id, digest) = rest.split_first_chunk::<16>()?;
    (digest == &Sha256::of(filter).as_bytes()[..8]).then_some(Cursor {
        created_at: Timestamp::from_micros(i64::from_be_bytes(*micros)),
        id: Uuid::from_bytes(*id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURSOR: Cursor = Cursor { created_at: Timestamp::from_micros(7), id: Uuid::from_u128(9) };

    #[test]
    fn a_token_reads_back_under_its_own_filter_only() {
        let made = token(CURSOR, "status=ACTIVE");
        let page = PageRequest::parse(0, &made, "status=ACTIVE").expect("own filter");
        assert_eq!((page.size, page.after), (DEFAULT_PAGE_SIZE, Some(CURSOR)));
        for (page_token, filter) in [(made.as_str(), "status=PAUSED"), ("x", ""), ("ü", ""), (&"A".repeat(500), "")] {
            assert!(matches!(PageRequest::parse(0, page_token, filter), Err(Error::PageTokenInvalid)));
        }
    }

    #[test]
    fn sizes_are_clamped_and_negative_ones_refused() {
        assert_eq!(PageRequest::parse(i32::MAX, "", "").expect("clamped").size, MAX_PAGE_SIZE);
        assert!(PageRequest::parse(-1, "", "").is_err());
    }
}
