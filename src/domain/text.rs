//! Rules for text that callers write: bounded, printable, and nothing that could be smuggled into a header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use oxilangtag::LanguageTag;
use url::{Host, Url};

use super::{sip::SipUri, violations::Fault};

const WS_URL_MAX_CHARS: usize = 2048;
const MEDIA_URL_MAX_CHARS: usize = 2048;
const SIP_URI_MAX_CHARS: usize = 512;
const LANGUAGE_MAX_CHARS: usize = 32;
const IDENTIFIER_MAX_CHARS: usize = 64;

/// 1 to `max_chars` characters, none of them a control character.
pub fn bounded_text(text: String, max_chars: usize) -> Result<String, Fault> {
    if text.is_empty() || text.chars().count() > max_chars {
        return Err(Fault::new(format!("must be 1 to {max_chars} characters")));
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::new("must not contain control characters"));
    }
    Ok(text)
}

/// 1 to `max_chars` characters, not all of them blank. Line breaks are text; a NUL is what no database keeps.
pub fn required_prose(text: Option<String>, max_chars: usize) -> Result<String, Fault> {
    let text = text.filter(|text| !text.trim().is_empty()).ok_or_else(Fault::required)?;
    prose(text, 1, max_chars)
}

/// At most `max_chars` characters; empty text says as much as none.
pub fn optional_prose(text: Option<String>, max_chars: usize) -> Result<Option<String>, Fault> {
    text.filter(|text| !text.is_empty()).map(|text| prose(text, 0, max_chars)).transpose()
}

fn prose(text: String, min_chars: usize, max_chars: usize) -> Result<String, Fault> {
    if text.chars().count() > max_chars {
        let from = if min_chars == 0 { "at most".to_owned() } else { format!("{min_chars} to") };
        return Err(Fault::new(format!("must be {from} {max_chars} characters")));
    }
    if text.contains('\0') {
        return Err(Fault::new("must not contain a NUL character"));
    }
    Ok(text)
}

/// What `value` takes as JSON.
pub fn json_bytes(value: &impl serde::Serialize) -> u64 {
    struct Count(u64);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        Err(_) => u64::MAX,
    }
}

/// A BCP 47 tag: well-formed by RFC 5646, whether or not its parts are registered.
pub fn parse_language(text: String) -> Result<String, Fault> {
    let length = text.chars().count();
    if (2..=LANGUAGE_MAX_CHARS).contains(&length) && LanguageTag::parse(text.as_str()).is_ok() {
        return Ok(text);
    }
    Err(Fault::new(format!("must be a BCP 47 language tag of 2 to {LANGUAGE_MAX_CHARS} characters")))
}

/// `^[a-zA-Z][a-zA-Z0-9_]{0,63}$`, with `-` too where `hyphens` are allowed.
pub fn parse_identifier(text: String, hyphens: bool) -> Result<String, Fault> {
    if text.is_empty() {
        return Err(Fault::required());
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || hyphens && b == b'-';
    if text.len() <= IDENTIFIER_MAX_CHARS && text.as_bytes()[0].is_ascii_alphabetic() && text.bytes().all(inner) {
        return Ok(text);
    }
    let signs = if hyphens { "digits, _ and -" } else { "digits and _" };
    Err(Fault::new(format!("must be a letter and up to {} letters, {signs}", IDENTIFIER_MAX_CHARS - 1)))
}

/// An absolute `ws` or `wss` URL with a host, without user-info and fragment.
pub fn parse_ws_url(text: String) -> Result<String, Fault> {
    if text.is_empty() {
        return Err(Fault::required());
    }
    if text.chars().count() > WS_URL_MAX_CHARS {
        return Err(Fault::new(format!("must be at most {WS_URL_MAX_CHARS} characters")));
    }
    // The URL standard drops tabs and newlines and trims blanks in silence; a caller who sent them made a mistake.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Fault::new("must not contain blanks or control characters"));
    }
    let url = Url::parse(&text).map_err(|_| Fault::new("must be an absolute ws:// or wss:// URL"))?;
    if !matches!(url.scheme(), "ws" | "wss") {
        return Err(Fault::new("must have the scheme ws or wss"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(Fault::new("must have a host"));
    }
    if !url.username().is_empty() || url.password().is_some() || text.contains('@') && has_user_info(&text) {
        return Err(Fault::new("must not carry a user name or password; use auth_token"));
    }
    if url.fragment().is_some() {
        return Err(Fault::new("must not have a fragment"));
    }
    Ok(text)
}

/// Also an empty one (`ws://@host`), which leaves no trace in the parsed URL.
pub(super) fn has_user_info(text: &str) -> bool {
    let authority = text.split_once("//").map_or("", |(_, rest)| rest);
    authority.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))
}

/// `+` and 7 to 15 digits (ITU-T E.164 allows at most 15).
pub fn check_e164(text: &str) -> Result<(), Fault> {
    let digits = text.strip_prefix('+').unwrap_or("");
    if (7..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(());
    }
    Err(Fault::new("must be an E.164 number (+ and 7 to 15 digits) or a sip: or sips: URI"))
}

/// A `sip:` or `sips:` URI by which nothing can be smuggled into a header (see [`SipUri`]).
pub fn check_sip_uri(text: &str) -> Result<(), Fault> {
    if text.len() <= SIP_URI_MAX_CHARS && SipUri::parse(text).is_some() {
        return Ok(());
    }
    Err(Fault::new("must be an E.164 number (+ and 7 to 15 digits) or a sip: or sips: URI"))
}

/// Which URLs media may be fetched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaUrls {
    /// https ones, not of this machine nor of a private network.
    Public,
    /// http ones too, and wherever they are.
    Any,
}

impl MediaUrls {
    /// A URL that a node may fetch, as far as its text tells. A name that resolves to a private address is for the node
    /// to refuse when it dials.
    pub fn parse(self, text: String) -> Result<String, Fault> {
        let fault = || {
            Fault::new(match self {
                Self::Public => "must be an https URL of at most 2048 characters, and not of a private address",
                Self::Any => "must be an http or https URL of at most 2048 characters",
            })
        };
        let plain = text.len() <= MEDIA_URL_MAX_CHARS && text.bytes().all(|byte| byte.is_ascii_graphic());
        let url = Url::parse(&text).ok().filter(|_| plain).ok_or_else(fault)?;
        let permitted = match self {
            Self::Public => url.scheme() == "https" && has_public_host(&url),
            Self::Any => matches!(url.scheme(), "http" | "https"),
        };
        if permitted { Ok(text) } else { Err(fault()) }
    }
}

/// Where a recording lies, which nobody here fetches: an https URL with a host.
pub fn parse_recording_url(text: String) -> Result<String, Fault> {
    let plain = text.len() <= MEDIA_URL_MAX_CHARS && text.bytes().all(|byte| byte.is_ascii_graphic());
    let parsed = Url::parse(&text).ok().filter(|url| plain && url.scheme() == "https" && url.has_host());
    match parsed {
        Some(_) => Ok(text),
        None => Err(Fault::new(format!("must be an https URL of at most {MEDIA_URL_MAX_CHARS} characters"))),
    }
}

fn has_public_host(url: &Url) -> bool {
    match url.host() {
        // The URL standard has read decimal, octal and short forms of an address by now.
        Some(Host::Ipv4(address)) => is_public(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => is_public(IpAddr::V6(address)),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name != "localhost" && !name.ends_with(".localhost")
        }
        None => false,
    }
}

/// Addresses of RFC 6890 that are not reached over the Internet are not public.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => is_public_v4(v4),
            None => is_public_v6(v6),
        },
    }
}

/// The IPv4 address that packets to this one end up at: mapped (`::ffff:0:0/96`), by NAT64 (`64:ff9b::/96`) or by 6to4
/// (`2002::/16`).
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)))
        }
        _ => None,
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol_assignments = [a, b, c] == [192, 0, 0];
    let benchmarking = a == 198 && (18..20).contains(&b);
    !(a == 0
        || a >= 224
        || shared
        || protocol_assignments
        || benchmarking
        || v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation())
}

/// Global unicast (2000::/3) but for protocol assignments, such as Teredo (2001::/23), and documentation.
fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [a, b, ..] = v6.segments();
    let global_unicast = a & 0xe000 == 0x2000;
    let protocol_assignments = a == 0x2001 && b < 0x200;
    let documentation = (a, b) == (0x2001, 0xdb8) || (a == 0x3fff && b < 0x1000);
    global_unicast && !protocol_assignments && !documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sip_values_cannot_smuggle_headers() {
        for good in ["sip:desk@pbx.example", "sips:pbx.example:5061;transport=tls", "sip:[2001:db8::1]"] {
            assert!(check_sip_uri(good).is_ok(), "{good}");
        }
        for bad in ["sip:", "sip:a@", "sip:a@b\r\nX: y", "sip:a@b c", "tel:1", "sip:a@<b>", "sip:@;x", "sip:a@b?X=y"] {
            assert!(check_sip_uri(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_language_is_well_formed() {
        let longest = "de-1234-12345678-12345678-123456";
        assert_eq!(longest.len(), LANGUAGE_MAX_CHARS);
        for good in ["de", "en-US", "zh-Hant-TW", "sr-Latn-RS", "es-419", "de-CH-1996", "x-ours", "i-klingon", longest]
        {
            assert!(parse_language(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "d", "12", "en_US", "en-", "-en", "en--US", "en US", "en-toolongsubtag", "ünglish", "e\0n"] {
            assert!(parse_language(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert!(parse_language(format!("{longest}7")).is_err());
    }

    #[test]
    fn a_recording_lies_behind_https() {
        assert!(parse_recording_url("https://10.0.0.7/r.wav?signature=a%2Bb".to_owned()).is_ok());
        let long = format!("https://media.example/{}", "a".repeat(MEDIA_URL_MAX_CHARS));
        for bad in ["", "r.wav", "http://media.example/r.wav", "https://", "https://media.example/a b", long.as_str()] {
            assert!(parse_recording_url(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn media_does_not_come_from_private_addresses() {
        for good in [
            "https://media.example/a.wav",
            "https://93.184.216.34/a",
            "https://198.20.0.1/a",
            "https://192.0.1.1/a",
            "https://[2606:2800::1]/a",
            "https://[::ffff:93.184.216.34]/a",
            "https://[64:ff9b::93.184.216.34]/a",
            "https://[2002:5db8:d822::1]/a",
        ] {
            assert!(MediaUrls::Public.parse(good.to_owned()).is_ok(), "{good}");
        }
        for bad in [
            "http://media.example/a",
            "https://127.0.0.1/a",
            "https://2130706433/a",
            "https://0x7f.1/a",
            "https://10.1.2.3/a",
            "https://169.254.169.254/latest",
            "https://100.64.0.1/a",
            "https://192.0.0.8/a",
            "https://198.18.0.1/a",
            "https://198.19.255.255/a",
            "https://[::1]/a",
            "https://[::]/a",
            "https://[::10.0.0.1]/a",
            "https://[::ffff:10.0.0.1]/a",
            "https://[::ffff:198.18.0.1]/a",
            "https://[64:ff9b::10.0.0.1]/a",
            "https://[64:ff9b::a9fe:a9fe]/a",
            "https://[64:ff9b:1::10.0.0.1]/a",
            "https://[2002:0a00:0001::1]/a",
            "https://[2002:c000:0008::]/a",
            "https://[2001::1]/a",
            "https://[2001:db8::1]/a",
            "https://[fd00::1]/a",
            "https://[fe80::1]/a",
            "https://[ff02::1]/a",
            "https://localhost/a",
            "https://x.localhost./a",
            "file:///etc/passwd",
            "https://a b/",
            "",
        ] {
            assert!(MediaUrls::Public.parse(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn where_private_media_is_allowed_only_http_urls_are_media_still() {
        for good in ["http://media.internal:8080/a.wav", "https://10.1.2.3/a", "http://[::1]/a", "http://localhost/a"] {
            assert!(MediaUrls::Any.parse(good.to_owned()).is_ok(), "{good}");
        }
        let long = format!("http://h/{}", "x".repeat(MEDIA_URL_MAX_CHARS));
        for bad in ["file:///etc/passwd", "ftp://h/a", "http://h/a b", "http://h/a\r\nX: y", "h/a", "", &long] {
            assert!(MediaUrls::Any.parse(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
