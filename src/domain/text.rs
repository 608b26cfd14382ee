//! Rules for text that callers write: bounded, printable, and nothing that could be smuggled into a header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use super::violations::Fault;

const WS_URL_MAX_CHARS: usize = 2048;
const MEDIA_URL_MAX_CHARS: usize = 2048;
const SIP_URI_MAX_CHARS: usize = 512;

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

/// An empty user-info (`ws://@host`) leaves no trace in the parsed URL.
fn has_user_info(text: &str) -> bool {
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

/// A `sip:` or `sips:` URI with a host: visible ASCII only, so that nothing can be smuggled into a header.
pub fn check_sip_uri(text: &str) -> Result<(), Fault> {
    let fault = || Fault::new("must be an E.164 number (+ and 7 to 15 digits) or a sip: or sips: URI");
    let address = text.strip_prefix("sip:").or_else(|| text.strip_prefix("sips:")).ok_or_else(fault)?;
    let host = address.rsplit_once('@').map_or(address, |(_, host)| host);
    let host = host.split([';', '?']).next().unwrap_or("");
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b'"');
    if text.len() > SIP_URI_MAX_CHARS || host.is_empty() || !text.bytes().all(plain) {
        return Err(fault());
    }
    let host_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    if host.bytes().all(host_byte) { Ok(()) } else { Err(fault()) }
}

/// An https URL that a node may fetch: not of this machine nor of a private network, as far as the text tells. A name
/// that resolves to such an address is for the node to refuse when it dials.
pub fn parse_media_url(text: String) -> Result<String, Fault> {
    let fault = || Fault::new("must be an https URL of at most 2048 characters, and not of a private address");
    let plain = text.len() <= MEDIA_URL_MAX_CHARS && text.bytes().all(|byte| byte.is_ascii_graphic());
    let url = Url::parse(&text).ok().filter(|_| plain).ok_or_else(fault)?;
    let public = match url.host() {
        // The URL standard has read decimal, octal and short forms of an address by now.
        Some(Host::Ipv4(address)) => is_public(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => is_public(IpAddr::V6(address)),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name != "localhost" && !name.ends_with(".localhost")
        }
        None => false,
    };
    if url.scheme() == "https" && public { Ok(text) } else { Err(fault()) }
}

/// Addresses of RFC 6890 that are not reached over the Internet are not public.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(mapped) => is_public_v4(mapped),
            None => is_public_v6(v6),
        },
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, ..] = v4.octets();
    let shared = a == 100 && (64..128).contains(&b);
    !(a == 0
        || a >= 224
        || shared
        || v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation())
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    !(v6.is_loopback()
        || v6.is_unspecified()
        || v6.is_multicast()
        || v6.is_unique_local()
        || v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sip_values_cannot_smuggle_headers() {
        for good in ["sip:desk@pbx.example", "sips:pbx.example:5061;transport=tls", "sip:[2001:db8::1]"] {
            assert!(check_sip_uri(good).is_ok(), "{good}");
        }
        for bad in ["sip:", "sip:a@", "sip:a@b\r\nX: y", "sip:a@b c", "tel:1", "sip:a@<b>", "sip:@;x"] {
            assert!(check_sip_uri(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn media_does_not_come_from_private_addresses() {
        for good in ["https://media.example/a.wav", "https://93.184.216.34/a", "https://[2606:2800::1]/a"] {
            assert!(parse_media_url(good.to_owned()).is_ok(), "{good}");
        }
        for bad in [
            "http://media.example/a",
            "https://127.0.0.1/a",
            "https://2130706433/a",
            "https://0x7f.1/a",
            "https://10.1.2.3/a",
            "https://169.254.169.254/latest",
            "https://100.64.0.1/a",
            "https://[::1]/a",
            "https://[::ffff:10.0.0.1]/a",
            "https://[fd00::1]/a",
            "https://localhost/a",
            "https://x.localhost./a",
            "file:///etc/passwd",
            "https://a b/",
            "",
        ] {
            assert!(parse_media_url(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
