//! SIP URIs as RFC 3261 writes them, read for what they reach: the hosts that they lead to and the number that they dial.
//!
//! What could be read in two ways is no URI here: who guards the way and who walks it would read it differently. So are
//! escaped control characters, which a node would unescape into a header, and the URI's own headers (`?Route=…`), by which
//! whoever writes the URI would write the node's request.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// A `sip:` or `sips:` URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SipUri {
    /// The host, and what a `maddr` parameter puts in its place.
    hosts: Vec<SipHost>,
    number: Option<String>,
}

/// A host, in the one spelling by which hosts are compared: without port, a name in lower case and without its final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SipHost {
    Name(String),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl SipUri {
    pub fn parse(text: &str) -> Option<Self> {
        let address = text.strip_prefix("sip:").or_else(|| text.strip_prefix("sips:"))?;
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b'"' | b'?');
        if !address.bytes().all(plain) || unescaped(address)?.iter().any(u8::is_ascii_control) {
            return None;
        }
        let (user, rest) = match address.split_once('@') {
            Some(("", _)) => return None,
            // A second one would leave it open where the host begins.
            Some((_, rest)) if rest.contains('@') => return None,
            Some((user, rest)) => (Some(user), rest),
            None => (None, address),
        };
        let mut parts = rest.split(';');
        let mut hosts = vec![SipHost::parse_with_port(parts.next()?)?];
        for parameter in parts {
            let parameter = unescaped_text(parameter)?;
            let (name, value) = parameter.split_once('=').unwrap_or((&parameter, ""));
            if name.eq_ignore_ascii_case("maddr") {
                hosts.push(SipHost::parse(value)?);
            }
        }
        let number = match user {
            Some(user) => dialled(&unescaped_text(user)?),
            None => None,
        };
        Some(Self { hosts, number })
    }

    /// Wherever the request may be sent.
    pub fn hosts(&self) -> &[SipHost] {
        &self.hosts
    }

    /// `+` and digits, where the user part is a telephone number; however it is spelt, and with `user=phone` or without.
    pub fn number(&self) -> Option<&str> {
        self.number.as_deref()
    }
}

impl SipHost {
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(address) = text.strip_prefix('[') {
            return address.strip_suffix(']')?.parse().ok().map(Self::V6);
        }
        if let Ok(address) = text.parse() {
            return Some(Self::V4(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        name.split('.').all(label).then(|| Self::Name(name.to_ascii_lowercase()))
    }

    fn parse_with_port(text: &str) -> Option<Self> {
        let address_end = text.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match text[address_end..].find(':') {
            Some(at) => text.split_at(address_end + at),
            None => (text, ""),
        };
        let is_port = |port: &str| port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit());
        let port_is_fine = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        if port_is_fine { Self::parse(host) } else { None }
    }

    /// Whether the last label is a word: a resolver takes other names for addresses (`127.1`, `0x7f000001`).
    pub fn is_domain(&self) -> bool {
        let Self::Name(name) = self else { return false };
        name.rsplit('.').next().is_some_and(|last| last.starts_with(|first: char| first.is_ascii_alphabetic()))
    }
}

impl fmt::Display for SipHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// The bytes behind the escapes; nothing where an escape is broken.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let (high, low) = (bytes.next()?, bytes.next()?);
                let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                (digit(high)? << 4) | digit(low)?
            }
            byte => byte,
        });
    }
    Some(plain)
}

fn unescaped_text(text: &str) -> Option<String> {
    unescaped(text).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The number that a user part dials (RFC 3966): what stands before its parameters and its password, without visual
/// separators. One without `+` is a number of the world only if its `phone-context` says where.
fn dialled(user: &str) -> Option<String> {
    let (subscriber, parameters) = user.split_once([';', ':']).unwrap_or((user, ""));
    let begins = |text: &str| text.trim_start_matches(|c: char| c != '+' && !c.is_alphanumeric()).starts_with('+');
    let global = |text: &str| digits(text).filter(|_| begins(text)).map(|digits| format!("+{digits}"));
    let context = || {
        let parameters = parameters.split([';', ':']);
        let mut named = parameters.filter_map(|parameter| parameter.split_once('='));
        named.find(|(name, _)| name.eq_ignore_ascii_case("phone-context")).and_then(|(_, value)| global(value))
    };
    global(subscriber).or_else(|| Some(context()? + &digits(subscriber)?))
}

/// The digits in `text`, whatever stands between them: visual separators, and what a gateway might pass over as well.
fn digits(text: &str) -> Option<String> {
    Some(text.chars().filter(char::is_ascii_digit).collect()).filter(|digits: &String| !digits.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str) -> Vec<String> {
        let uri = SipUri::parse(text).unwrap_or_else(|| panic!("{text} is a URI"));
        uri.hosts().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_host_is_read_without_user_port_case_and_final_dot() {
        for (text, host) in [
            ("sip:pbx.example", "pbx.example"),
            ("sips:Desk@PBX.Example.:5061;transport=tls", "pbx.example"),
            ("sip:a:secret@pbx.example", "pbx.example"),
            ("sip:other.example;x=1@pbx.example", "pbx.example"),
            ("sip:a@192.0.2.7:5060", "192.0.2.7"),
            ("sip:a@[2001:DB8:0::1]:5060", "[2001:db8::1]"),
        ] {
            assert_eq!(hosts(text), [host], "{text}");
        }
    }

    #[test]
    fn a_maddr_is_a_host_too_however_it_is_spelt() {
        for text in ["sip:a@pbx.example;maddr=evil.example", "sip:a@pbx.example;lr;%4dADDR=evil%2Eexample"] {
            assert_eq!(hosts(text), ["pbx.example", "evil.example"], "{text}");
        }
    }

    #[test]
    fn what_is_ambiguous_or_smuggles_a_header_is_no_uri() {
        for text in [
            "sip:",
            "sip:@pbx.example",
            "sip:a@",
            "sip:a@b@c",
            "sip:a@evil.example;x=@pbx.example",
            "sip:evil.example?x=@pbx.example",
            "sip:a@pbx.example?Route=evil.example",
            "sip:a%0d%0aX-Evil:1@pbx.example",
            "sip:a@pbx.example;x=%00",
            "sip:a%4@pbx.example",
            "sip:a%zz@pbx.example",
            "sip:a%+1@pbx.example",
            "sip:a@pbx.example:x",
            "sip:a@pbx.example:5060:1",
            "sip:a@pbx.example:+5060",
            "sip:a@pbx..example",
            "sip:a@[2001:db8::1",
            "sip:a@[::1]x",
            "sip:a@pbx.example;maddr=",
            "sip:a@b\r\nX: y",
            "sip:a@<b>",
            "tel:+15550100",
        ] {
            assert_eq!(SipUri::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_number_is_found_however_it_is_spelt() {
        for user in [
            "+97912345",
            "%2B97912345",
            "%2b979%31%32345",
            "+979-12.3(45)",
            "+(979)%2012345",
            "(+979)12345",
            "%20-%2B97912345",
            "+97912345;ext=7",
            "+97912345%3Bext=7",
            "+97912345:secret",
            "+97*9abc12345",
            "12345;phone-context=+979",
            "123-45;isub=1;Phone-Context=%2B979",
        ] {
            for suffix in ["", ";user=phone", ":5060;user=phone"] {
                let text = format!("sip:{user}@gw.example{suffix}");
                assert_eq!(SipUri::parse(&text).expect("a URI").number(), Some("+97912345"), "{text}");
            }
        }
        for text in ["sip:gw.example", "sip:desk@gw.example", "sip:200@gw.example;user=phone", "sip:+desk@gw.example"] {
            assert_eq!(SipUri::parse(text).expect("a URI").number(), None, "{text}");
        }
    }
}
