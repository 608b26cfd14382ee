//! Between the wire and the domain: decoding collects every fault, encoding cannot fail.

pub(super) mod agent_request;
pub(super) mod audit;
pub(super) mod behavior;
pub(super) mod completion;
pub(super) mod direct;
pub(super) mod event;
pub(super) mod lease;
pub(super) mod node;
pub(super) mod session;
pub(super) mod session_list;
pub(super) mod tenant;
pub mod value;
pub(super) mod verb;
pub(super) mod voice_agent;
pub(super) mod webhook;

use std::str::FromStr;

use crate::domain::{
    page::{Cursor, Page},
    violations::{Fault, Violations},
};

/// Of the items of one page; a message has 256 KiB, and the largest item some 235.
const PAGE_MAX_BYTES: usize = 200 * 1024;
/// Tag and length of one item in its page.
const ITEM_FRAME_BYTES: usize = 5;

/// As much of the page as one message holds; where it stops short, the next page starts there.
pub(super) fn write_page<T, M: prost::Message>(
    page: &Page<T>,
    write: impl Fn(&T) -> M,
    cursor: impl Fn(&T) -> Cursor,
) -> (Vec<M>, Option<Cursor>) {
    let items = fitting(page.items.iter().map(write));
    let next = match items.len().checked_sub(1).and_then(|last| page.items.get(last)) {
        Some(last) if items.len() < page.items.len() => Some(cursor(last)),
        _ => page.next,
    };
    (items, next)
}

/// As many of `items` as one message holds. One alone always fits.
pub(super) fn fitting<M: prost::Message>(items: impl Iterator<Item = M>) -> Vec<M> {
    let (mut budget, mut first) = (PAGE_MAX_BYTES, true);
    let fits = |item: &M| {
        let fits = budget.checked_sub(item.encoded_len() + ITEM_FRAME_BYTES).map(|rest| budget = rest).is_some();
        std::mem::take(&mut first) || fits
    };
    items.take_while(fits).collect()
}

/// Pairs the variants of a domain enum with those of its wire enum, both ways.
macro_rules! wire_enum {
    ($domain:ty, $wire:ty, { $($variant:ident),+ $(,)? }) => {
        impl From<$domain> for $wire {
            fn from(value: $domain) -> Self {
                match value { $(<$domain>::$variant => Self::$variant),+ }
            }
        }

        impl $crate::grpc::convert::WireEnum for $domain {
            type Wire = $wire;

            fn read(wire: $wire) -> Option<Self> {
                match wire {
                    $(<$wire>::$variant => Some(Self::$variant),)+
                    <$wire>::Unspecified => None,
                }
            }
        }
    };
}
pub(super) use wire_enum;

/// A domain enum whose wire enum has `UNSPECIFIED = 0` for its default.
pub(super) trait WireEnum: Sized {
    type Wire: TryFrom<i32>;

    fn read(wire: Self::Wire) -> Option<Self>;
}

/// Reads an enum field: nothing where it is unspecified, a fault where the number is unknown.
pub(super) fn read_enum<E: WireEnum>(field: &str, number: i32, faults: &mut Violations) -> Option<E> {
    let known = E::Wire::try_from(number).map_err(|_| Fault::new("is not a value of the enum"));
    faults.take(field, known).and_then(E::read)
}

/// As [`read_enum`], for a field that may be absent.
pub(super) fn read_present_enum<E: WireEnum>(field: &str, number: Option<i32>, faults: &mut Violations) -> Option<E> {
    number.and_then(|number| read_enum(field, number, faults))
}

/// Reads an id or another field that parses from text.
pub(super) fn read<T: FromStr<Err = Fault>>(field: &str, text: &str, faults: &mut Violations) -> Option<T> {
    let parsed = if text.is_empty() { Err(Fault::required()) } else { text.parse() };
    faults.take(field, parsed)
}

/// As [`read`], where unset and empty mean that there is none.
pub(super) fn read_optional<T: FromStr<Err = Fault>>(
    field: &str,
    text: Option<&str>,
    faults: &mut Violations,
) -> Option<T> {
    text.filter(|text| !text.is_empty()).and_then(|text| read(field, text, faults))
}

/// The fields that the paths of an update mask name: those of `all`, or every one of them by `*`.
pub(super) fn read_mask<F: Copy + PartialEq>(
    paths: &[String],
    all: &[F],
    from_word: impl Fn(&str) -> Option<F>,
    read_only: &[&str],
    faults: &mut Violations,
) -> Vec<F> {
    if paths.iter().any(|path| path == "*") {
        if paths.len() > 1 {
            faults.add("update_mask", Fault::new("must not name other paths beside *"));
        }
        return all.to_vec();
    }
    let mut fields = Vec::new();
    for path in paths {
        let known = from_word(path).ok_or_else(|| match read_only.contains(&path.as_str()) {
            true => Fault::read_only(),
            false => Fault::unknown(),
        });
        let shown: String = path.chars().take(100).collect();
        fields.extend(faults.take(&format!("update_mask.{shown}"), known).filter(|field| !fields.contains(field)));
    }
    fields
}

/// Saturates: counts on the wire are signed.
pub(super) fn number(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
