//! Where calls may be sent: what is accepted smuggles nothing, has one meaning, and is judged by it, not by its spelling.
//!
//! The first line is what a caller names, a number or a SIP URI. Each further one is a rule of the tenant: `a` and `d` before
//! a prefix that is allowed or denied, `h` before an allowed host, `c` before the digit of a class of numbers.

use voxgate::domain::{
    conference::{Invitee, ParticipantType},
    destination::{DestinationPolicy, DestinationPolicyDraft, DestinationType, NumberClass, Outbound},
    sip::{SipHost, SipUri},
    text::{check_e164, check_sip_uri},
    verb::Destination,
};

const SIP_URI_MAX_BYTES: usize = 512;
/// What may stand between the digits of a user part, and a gateway passes over.
const SEPARATORS: [&str; 8] = ["", "-", ".", "(", ")", "%20", "%2D", "*"];

pub(super) fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (named, rules) = text.split_once('\n').unwrap_or((&text, ""));
    let policy = policy(rules);
    if a_number_is_plus_and_digits(named) {
        judged_as_the_longest_prefix_says(named, &policy);
        judged_the_same_however_it_is_spelt(named, rules.as_bytes(), &policy);
    }
    if a_uri_smuggles_nothing(named) {
        let uri = SipUri::parse(named).expect("a URI that was accepted");
        leads_where_it_says(named, &uri);
        means_the_same_in_its_plainest_spelling(&uri);
        judged_by_all_that_it_reaches(named, &uri, &policy);
    }
}

// ---------------------------------------------------------------- what is accepted

fn a_number_is_plus_and_digits(text: &str) -> bool {
    let legal = match text.as_bytes() {
        [b'+', digits @ ..] => (7..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    assert_eq!(check_e164(text).is_ok(), legal, "{text:?}");
    assert_eq!(Destination::e164(text.to_owned()).is_ok(), legal, "{text:?}");
    assert_eq!(Invitee::new(ParticipantType::E164, text.to_owned()).is_ok(), legal, "{text:?}");
    legal
}

fn a_uri_smuggles_nothing(text: &str) -> bool {
    let accepted = check_sip_uri(text).is_ok();
    assert_eq!(Destination::sip_uri(text.to_owned()).is_ok(), accepted, "{text:?}");
    assert_eq!(Invitee::new(ParticipantType::SipUri, text.to_owned()).is_ok(), accepted, "{text:?}");
    if accepted {
        assert!(text.len() <= SIP_URI_MAX_BYTES, "{} bytes were accepted", text.len());
        assert!(text.starts_with("sip:") || text.starts_with("sips:"), "{text:?}");
        assert!(text.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"?".contains(&b)), "{text:?}");
        assert!(text.matches('@').count() <= 1, "{text:?} has two hosts");
        let plain = unescaped(text);
        assert!(!plain.iter().any(u8::is_ascii_control), "{text:?} unescapes to {plain:?}");
    }
    accepted
}

/// What a node makes of the escapes; a broken one stays.
fn unescaped(text: &str) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escape = rest.get(1..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escape = escape.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        plain.push(escape.unwrap_or(*first));
        rest = if escape.is_some() { &rest[3..] } else { tail };
    }
    plain
}

// ---------------------------------------------------------------- what it means

/// The host is what a reader finds who looks only between the `@` and the first sign that ends a host.
fn leads_where_it_says(text: &str, uri: &SipUri) {
    let (_, address) = text.split_once(':').expect("a scheme");
    let place = address.rsplit('@').next().expect("something after the scheme");
    let end = if place.starts_with('[') { place.find(']').expect("a closing bracket") + 1 } else { 0 };
    let end = place[end..].find([':', ';']).map_or(place.len(), |at| end + at);
    let host = SipHost::parse(&place[..end]).expect("a host");
    assert_eq!(uri.hosts().first(), Some(&host), "{text}");
    let is_override = |parameter: &&str| unescaped(parameter).to_ascii_lowercase().starts_with(b"maddr=");
    let overrides = place.split(';').skip(1).filter(is_override).count();
    assert_eq!(uri.hosts().len(), 1 + overrides, "{text}");
    for host in uri.hosts() {
        let spelt = host.to_string();
        assert_eq!(SipHost::parse(&spelt).as_ref(), Some(host), "{spelt}");
        assert_eq!(SipHost::parse(&spelt.to_ascii_uppercase()).as_ref(), Some(host), "{spelt}");
        assert!(spelt.bytes().all(|b| b.is_ascii_graphic() && !b"/@;?<>\"%".contains(&b)), "{spelt}");
    }
}

fn means_the_same_in_its_plainest_spelling(uri: &SipUri) {
    let (first, others) = uri.hosts().split_first().expect("a URI has a host");
    let user = uri.number().map_or(String::new(), |number| format!("{number}@"));
    let mut plain = format!("sip:{user}{first}");
    for host in others {
        plain = format!("{plain};maddr={host}");
    }
    assert_eq!(SipUri::parse(&plain).as_ref(), Some(uri), "{plain}");
    if let Some(number) = uri.number() {
        assert!(number.len() > 1 && number.starts_with('+'), "{number}");
        assert!(number[1..].bytes().all(|b| b.is_ascii_digit()), "{number}");
    }
}

// ---------------------------------------------------------------- how it is judged

/// The rules of those lines that are rules.
fn policy(lines: &str) -> DestinationPolicy {
    let mut all = DestinationPolicyDraft::default();
    for line in lines.split('\n') {
        let mut one = DestinationPolicyDraft::default();
        let Some((kind, rule)) = line.split_at_checked(1) else { continue };
        match kind {
            "a" => one.e164_allow_prefixes.push(rule.to_owned()),
            "d" => one.e164_deny_prefixes.push(rule.to_owned()),
            "h" => one.sip_allow_hosts.push(rule.to_owned()),
            "c" => one.deny_classes.push(rule.parse().ok().and_then(|at: usize| NumberClass::ALL.get(at).copied())),
            _ => continue,
        }
        match DestinationPolicy::parse(one.clone()) {
            Ok(policy) => stays_what_it_is(&policy),
            Err(faults) => {
                assert!(faults.iter().count() == 1, "one rule has {faults:?}");
                continue;
            }
        }
        all.e164_allow_prefixes.append(&mut one.e164_allow_prefixes);
        all.e164_deny_prefixes.append(&mut one.e164_deny_prefixes);
        all.sip_allow_hosts.append(&mut one.sip_allow_hosts);
        all.deny_classes.append(&mut one.deny_classes);
    }
    all.deny_classes.truncate(NumberClass::ALL.len());
    all.e164_allow_prefixes.truncate(100);
    all.sip_allow_hosts.truncate(100);
    all.e164_deny_prefixes.truncate(1_000);
    let policy = DestinationPolicy::parse(all).expect("each rule is one");
    stays_what_it_is(&policy);
    policy
}

fn stays_what_it_is(policy: &DestinationPolicy) {
    let again = DestinationPolicy::parse(DestinationPolicyDraft::from(policy));
    assert_eq!(again.as_ref(), Ok(policy), "rules that are read and written again are the same");
    let kept = serde_json::to_string(policy).expect("rules are kept as JSON");
    assert_eq!(serde_json::from_str::<DestinationPolicy>(&kept).expect("as they were kept"), *policy);
}

/// The rule in other words: from the whole number down, the first prefix that anybody named decides.
fn number_is_permitted(number: &str, policy: &DestinationPolicy) -> bool {
    let classes = || policy.deny_classes().iter().flat_map(|class| class.prefixes().iter().copied());
    for end in (1..=number.len()).rev() {
        let prefix = &number[..end];
        if policy.e164_deny_prefixes().chain(classes()).any(|denied| denied == prefix) {
            return false;
        }
        if policy.e164_allow_prefixes().any(|allowed| allowed == prefix) {
            return true;
        }
    }
    policy.e164_allow_prefixes().next().is_none()
}

fn judged_as_the_longest_prefix_says(number: &str, policy: &DestinationPolicy) {
    let permitted = policy.permits(Outbound { kind: DestinationType::E164, address: number });
    assert_eq!(permitted, number_is_permitted(number, policy), "{number} under {policy:?}");
}

fn judged_the_same_however_it_is_spelt(number: &str, spice: &[u8], policy: &DestinationPolicy) {
    let digits = number.as_bytes()[1..].iter().enumerate().map(|(at, digit)| {
        let spice = spice.get(at % spice.len().max(1)).copied().unwrap_or(0);
        let separator = SEPARATORS[usize::from(spice) % SEPARATORS.len()];
        let digit = if spice & 16 == 0 { char::from(*digit).to_string() } else { format!("%{digit:02x}") };
        format!("{separator}{digit}")
    });
    let digits: String = digits.collect();
    let (country, rest) = number.split_at(number.len() / 2);
    for user in [
        format!("+{digits}"),
        format!("%2B{digits};ext=7"),
        format!("(+{digits}:secret"),
        format!("{rest};phone-context={country}"),
    ] {
        for suffix in ["", ":5060;user=phone", ";maddr=192.0.2.7"] {
            let text = format!("sips:{user}@gw.example{suffix}");
            let uri = SipUri::parse(&text).unwrap_or_else(|| panic!("{text} is a URI"));
            assert_eq!(uri.number(), Some(number), "{text}");
            judged_by_all_that_it_reaches(&text, &uri, policy);
        }
    }
}

fn judged_by_all_that_it_reaches(text: &str, uri: &SipUri, policy: &DestinationPolicy) {
    let host_is_permitted = |host: &SipHost| {
        let spelt = host.to_string();
        let is_named = |rule: &str| match (rule.strip_prefix("*."), host) {
            (Some(domain), SipHost::Name(_)) => below(&spelt, domain),
            (Some(_), SipHost::V4(_) | SipHost::V6(_)) => false,
            (None, _) => spelt == rule,
        };
        policy.sip_allow_hosts().next().is_none() || policy.sip_allow_hosts().any(is_named)
    };
    let permitted = uri.hosts().iter().all(host_is_permitted)
        && uri.number().is_none_or(|number| number_is_permitted(number, policy));
    let judged = policy.permits(Outbound { kind: DestinationType::SipUri, address: text });
    assert_eq!(judged, permitted, "{text} under {policy:?}");
}

/// Whether `name` is a name of `domain`, label by label from the end, and not the domain itself.
fn below(name: &str, domain: &str) -> bool {
    let mut labels = name.rsplit('.');
    domain.rsplit('.').all(|label| labels.next() == Some(label)) && labels.next().is_some()
}
