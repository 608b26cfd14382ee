//! Which numbers and SIP hosts the calls of a tenant may be sent to: its guard against toll fraud.
//!
//! A number is judged by the longest prefix that it begins with: of an allowed and a denied one, the longer decides, and
//! the denied one between equals. So a tenant denies a country and allows one city of it, or the reverse. A SIP URI is
//! judged by each host that it leads to, and by the number rules as well if its user part is a number: a gateway would
//! dial it.
//!
//! Absent on purpose: what a name resolves to, which is for the node that dials, and numbers without their country code,
//! which mean what the SIP host makes of them.

mod number_class;

use serde::{Deserialize, Serialize};

pub use self::number_class::NumberClass;
use super::{
    sip::{SipHost, SipUri},
    violations::{Fault, Violations},
    words::words,
};

const ALLOW_PREFIXES_MAX: usize = 100;
const DENY_PREFIXES_MAX: usize = 1_000;
const SIP_HOSTS_MAX: usize = 100;
/// The longest number that there is (ITU-T E.164), without its `+`.
const PREFIX_MAX_DIGITS: usize = 15;
/// The longest name that there is (RFC 1035), as text.
const HOST_MAX_CHARS: usize = 253;

words!(
    /// What the rules are asked about.
    DestinationType { E164 = "e164", SipUri = "sip_uri" }
);

/// Where beyond the platform a call is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outbound<'a> {
    pub kind: DestinationType,
    pub address: &'a str,
}

/// A tenant's rules. The default allows everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationPolicy {
    /// Empty: every number.
    e164_allow_prefixes: Vec<Prefix>,
    e164_deny_prefixes: Vec<Prefix>,
    deny_classes: Vec<NumberClass>,
    /// Empty: every host.
    sip_allow_hosts: Vec<HostPattern>,
}

/// `+` and digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Prefix(String);

/// A host, or `*.` and the name that its own is below; spelt as [`SipHost`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct HostPattern(String);

/// Rules as a caller writes them, unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DestinationPolicyDraft {
    pub e164_allow_prefixes: Vec<String>,
    pub e164_deny_prefixes: Vec<String>,
    /// Nothing: a class that there is not.
    pub deny_classes: Vec<Option<NumberClass>>,
    pub sip_allow_hosts: Vec<String>,
}

impl DestinationPolicy {
    pub fn parse(draft: DestinationPolicyDraft) -> Result<Self, Violations> {
        let DestinationPolicyDraft { e164_allow_prefixes, e164_deny_prefixes, deny_classes, sip_allow_hosts } = draft;
        let mut faults = Violations::default();
        let mut lists = Lists { faults: &mut faults };
        let policy = Self {
            e164_allow_prefixes: lists.read(
                "e164_allow_prefixes",
                ALLOW_PREFIXES_MAX,
                e164_allow_prefixes,
                Prefix::parse,
            ),
            e164_deny_prefixes: lists.read("e164_deny_prefixes", DENY_PREFIXES_MAX, e164_deny_prefixes, Prefix::parse),
            deny_classes: lists.read("deny_classes", NumberClass::ALL.len(), deny_classes, |class| {
                class.ok_or_else(|| Fault::new("is not a class of numbers"))
            }),
            sip_allow_hosts: lists
                .read("sip_allow_hosts", SIP_HOSTS_MAX, sip_allow_hosts, |host| HostPattern::parse(&host)),
        };
        faults.into_result(Some(policy))
    }

    pub fn permits(&self, outbound: Outbound<'_>) -> bool {
        match outbound.kind {
            DestinationType::E164 => self.permits_number(outbound.address),
            // What an earlier release took for a URI and this one does not leads nobody knows where.
            DestinationType::SipUri => SipUri::parse(outbound.address).is_some_and(|uri| {
                uri.hosts().iter().all(|host| self.permits_host(host))
                    && uri.number().is_none_or(|number| self.permits_number(number))
            }),
        }
    }

    fn permits_number(&self, number: &str) -> bool {
        let own = self.e164_deny_prefixes.iter().map(|prefix| prefix.0.as_str());
        let of_classes = self.deny_classes.iter().flat_map(|class| class.prefixes()).copied();
        let denied = longest(number, own.chain(of_classes));
        let allowed = match self.e164_allow_prefixes.is_empty() {
            true => Some(0),
            false => longest(number, self.e164_allow_prefixes.iter().map(|prefix| prefix.0.as_str())),
        };
        // Nothing is less than anything.
        allowed > denied
    }

    fn permits_host(&self, host: &SipHost) -> bool {
        self.sip_allow_hosts.is_empty() || self.sip_allow_hosts.iter().any(|pattern| pattern.matches(host))
    }

    /// What it takes in memory, about.
    pub fn weight_bytes(&self) -> usize {
        let prefixes = self.e164_allow_prefixes.iter().chain(&self.e164_deny_prefixes).map(|prefix| prefix.0.len());
        let hosts = self.sip_allow_hosts.iter().map(|host| host.0.len());
        prefixes.chain(hosts).map(|length| length + size_of::<String>()).sum::<usize>() + size_of::<Self>()
    }

    pub fn e164_allow_prefixes(&self) -> impl Iterator<Item = &str> {
        self.e164_allow_prefixes.iter().map(|prefix| prefix.0.as_str())
    }

    pub fn e164_deny_prefixes(&self) -> impl Iterator<Item = &str> {
        self.e164_deny_prefixes.iter().map(|prefix| prefix.0.as_str())
    }

    pub fn deny_classes(&self) -> &[NumberClass] {
        &self.deny_classes
    }

    pub fn sip_allow_hosts(&self) -> impl Iterator<Item = &str> {
        self.sip_allow_hosts.iter().map(|host| host.0.as_str())
    }
}

/// What a caller would write to get the same rules.
impl From<&DestinationPolicy> for DestinationPolicyDraft {
    fn from(policy: &DestinationPolicy) -> Self {
        Self {
            e164_allow_prefixes: policy.e164_allow_prefixes().map(str::to_owned).collect(),
            e164_deny_prefixes: policy.e164_deny_prefixes().map(str::to_owned).collect(),
            deny_classes: policy.deny_classes.iter().copied().map(Some).collect(),
            sip_allow_hosts: policy.sip_allow_hosts().map(str::to_owned).collect(),
        }
    }
}

/// The length of the longest prefix that `number` begins with.
fn longest<'a>(number: &str, prefixes: impl Iterator<Item = &'a str>) -> Option<usize> {
    prefixes.filter(|prefix| number.starts_with(prefix)).map(str::len).max()
}

/// Reads bounded lists, each faulty item named by its index.
struct Lists<'f> {
    faults: &'f mut Violations,
}

impl Lists<'_> {
    fn read<T, U>(&mut self, field: &str, max: usize, items: Vec<T>, parse: impl Fn(T) -> Result<U, Fault>) -> Vec<U> {
        if items.len() > max {
            self.faults.add(field, Fault::new(format!("must be at most {max} entries")));
            return Vec::new();
        }
        let mut read = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            read.extend(self.faults.take(&format!("{field}[{index}]"), parse(item)));
        }
        read
    }
}

impl Prefix {
    fn parse(text: String) -> Result<Self, Fault> {
        let digits = text.strip_prefix('+').unwrap_or("");
        if (1..=PREFIX_MAX_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Self(text));
        }
        Err(Fault::new(format!("must be + and 1 to {PREFIX_MAX_DIGITS} digits")))
    }
}

impl HostPattern {
    fn parse(text: &str) -> Result<Self, Fault> {
        let fault = || Fault::new("must be a host without port, or *. and the name of a domain");
        let (wildcard, name) = text.strip_prefix("*.").map_or(("", text), |name| ("*.", name));
        let host = SipHost::parse(name).filter(|host| wildcard.is_empty() || host.is_domain()).ok_or_else(fault)?;
        let spelt = format!("{wildcard}{host}");
        if spelt.len() > HOST_MAX_CHARS { Err(fault()) } else { Ok(Self(spelt)) }
    }

    fn matches(&self, host: &SipHost) -> bool {
        match (self.0.strip_prefix('*'), host) {
            // With its dot, and with something before it, which is a label.
            (Some(domain), SipHost::Name(name)) => name.ends_with(domain),
            (Some(_), SipHost::V4(_) | SipHost::V6(_)) => false,
            (None, host) => host.to_string() == self.0,
        }
    }
}

#[cfg(test)]
mod tests;
