//! What a Redis URL says: one server, a master that sentinels know, or a cluster; and who we are there.
//!
//! `redis://[user:password@]host[:port][/db]`, `redis+sentinel://[user:password@]host[:port],…/master[/db]` and
//! `redis+cluster://[user:password@]host[:port],…`; with `rediss` in place of `redis`, by TLS. Sentinels that want a
//! login of their own are given `?sentinel_user=…&sentinel_password=…`. A URL of several hosts is not one by the
//! standard's grammar, so each host is parsed as a URL of its own. No fault shows a part of the URL: it may be the
//! password, put in the wrong place.

use deadpool_redis::redis::{IntoConnectionInfo as _, RedisConnectionInfo};
use url::{Url, form_urlencoded};

use crate::domain::violations::{Fault, Violations};

const FIELD: &str = "redis_url";
/// More seeds than any cluster or set of sentinels needs to be found.
const HOSTS_MAX: usize = 64;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// `host:port` as Redis writes it, IPv6 without brackets; a host that is left out is `whose`, the one who says so.
    pub(super) fn told(text: &str, whose: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = if matches!(host, "" | "?") { whose } else { host };
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Home {
    One(Address),
    Sentinels { addresses: Vec<Address>, master: String },
    Cluster(Vec<Address>),
}

/// A URL, understood. Logins are redis-rs's own, which redact themselves.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) home: Home,
    pub(super) is_tls: bool,
    /// Who we are to the servers, and which database we use.
    pub(super) login: RedisConnectionInfo,
    pub(super) sentinel_login: RedisConnectionInfo,
}

/// The parts of a URL, by position.
struct Parts<'a> {
    user_info: Option<&'a str>,
    hosts: &'a str,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Self {
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user_info, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        Self { user_info, hosts, path: path.trim_end_matches('/'), query }
    }
}

impl Target {
    pub(super) fn parse(text: &str) -> Result<Self, Violations> {
        let mut faults = Faults::default();
        let scheme_and_rest = text.split_once("://").unwrap_or((text, ""));
        let (is_tls, kind) = match scheme_and_rest.0.split_once('+').unwrap_or((scheme_and_rest.0, "")) {
            ("redis", kind) => (false, kind),
            ("rediss", kind) => (true, kind),
            _ => (false, "unknown"),
        };
        if !matches!(kind, "" | "sentinel" | "cluster") || scheme_and_rest.1.is_empty() {
            faults.add("must begin with redis:// or rediss://, or the same with +sentinel or +cluster");
            return Err(faults.0);
        }
        if scheme_and_rest.1.contains('#') {
            faults.add("must not have a fragment (# in a password is written %23)");
        }
        let parts = Parts::of(scheme_and_rest.1);
        let addresses = addresses(parts.hosts, kind, &mut faults);
        let (master, db) = match kind {
            "sentinel" => parts.path.split_once('/').unwrap_or((parts.path, "")),
            _ => ("", parts.path),
        };
        if kind == "sentinel" && (master.is_empty() || master.len() > 128) {
            faults.add("must name the master behind the sentinels, as in redis+sentinel://host/master");
        }
        if kind == "cluster" && !db.is_empty() {
            faults.add("must not name a database: a cluster has one");
        }
        let login = login(parts.user_info, &mut faults).set_db(database(db, &mut faults));
        let sentinel_login = sentinel_login(parts.query.unwrap_or_default(), kind, &mut faults);
        let mut addresses = addresses.into_iter();
        let home = match kind {
            "sentinel" => Some(Home::Sentinels { addresses: addresses.collect(), master: master.to_owned() }),
            "cluster" => Some(Home::Cluster(addresses.collect())),
            _ => addresses.next().map(Home::One),
        };
        faults.0.into_result(home.map(|home| Self { home, is_tls, login, sentinel_login }))
    }
}

#[derive(Default)]
struct Faults(Violations);

impl Faults {
    fn add(&mut self, description: &str) {
        self.0.add(FIELD, Fault::new(description));
    }
}

fn addresses(hosts: &str, kind: &str, faults: &mut Faults) -> Vec<Address> {
    let default_port = if kind == "sentinel" { 26_379 } else { 6_379 };
    let one = |host: &str| {
        let url = Url::parse(&format!("http://{host}/")).ok().filter(|url| url.path() == "/" && !host.contains('/'))?;
        let name = url.host_str()?.trim_matches(['[', ']']).to_owned();
        // Port 80 is what the scheme that carried it here hides.
        let port = if host.ends_with(":80") { 80 } else { url.port().unwrap_or(default_port) };
        (url.username().is_empty() && url.password().is_none() && port > 0).then_some(Address { host: name, port })
    };
    let all: Vec<_> = hosts.split(',').map(one).collect();
    if kind.is_empty() && all.len() > 1 {
        faults.add("must name one host: several are for +sentinel and +cluster");
    }
    if all.len() > HOSTS_MAX {
        faults.add("must name at most 64 hosts");
    }
    if all.iter().any(Option::is_none) {
        faults.add("must name each host as host or host:port");
    }
    all.into_iter().flatten().collect()
}

fn login(user_info: Option<&str>, faults: &mut Faults) -> RedisConnectionInfo {
    let Some(user_info) = user_info else { return RedisConnectionInfo::default() };
    let parsed = Url::parse(&format!("redis://{user_info}@host/")).ok().and_then(|url| url.into_connection_info().ok());
    match parsed {
        Some(info) => info.redis_settings().clone(),
        None => {
            faults.add("must have a user and a password that are percent-encoded UTF-8");
            RedisConnectionInfo::default()
        }
    }
}

fn database(text: &str, faults: &mut Faults) -> i64 {
    match text.parse::<u16>() {
        Ok(database) => database.into(),
        Err(_) if text.is_empty() => 0,
        Err(_) => {
            faults.add("must name a database by its number, or none");
            0
        }
    }
}

fn sentinel_login(query: &str, kind: &str, faults: &mut Faults) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match (kind, &*name) {
            ("sentinel", "sentinel_user") => login = login.set_username(value),
            ("sentinel", "sentinel_password") => login = login.set_password(value),
            _ => faults.add("has a parameter that is not known: there are sentinel_user and sentinel_password"),
        }
    }
    login
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Address {
        Address { host: host.to_owned(), port }
    }

    fn parsed(text: &str) -> Target {
        Target::parse(text).unwrap_or_else(|faults| panic!("{text}: {faults:?}"))
    }

    #[test]
    fn each_form_is_understood() {
        for (text, home) in [
            ("redis://h", Home::One(at("h", 6_379))),
            ("rediss://10.0.0.1:80/", Home::One(at("10.0.0.1", 80))),
            ("redis://[::1]:7000/3", Home::One(at("::1", 7_000))),
            (
                "redis+sentinel://a,b:7/main",
                Home::Sentinels { addresses: vec![at("a", 26_379), at("b", 7)], master: "main".into() },
            ),
            ("rediss+cluster://a:1,b", Home::Cluster(vec![at("a", 1), at("b", 6_379)])),
        ] {
            let target = parsed(text);
            assert_eq!((target.home, target.is_tls), (home, text.starts_with("rediss")), "{text}");
        }
        assert_eq!(parsed("redis://[::1]:7000/3").login.db(), 3);
        assert_eq!(parsed("redis+sentinel://a/main/2").login.db(), 2);
    }

    #[test]
    fn logins_are_decoded_and_the_sentinels_is_its_own() {
        let target = parsed("redis+sentinel://vox:p%40ss%2F@a,b/main?sentinel_user=watch&sentinel_password=s%26t");
        assert_eq!((target.login.username(), target.login.password()), (Some("vox"), Some("p@ss/")));
        let sentinel = target.sentinel_login;
        assert_eq!((sentinel.username(), sentinel.password()), (Some("watch"), Some("s&t")));
        let target = parsed("redis://:only@a");
        assert_eq!((target.login.username(), target.login.password()), (None, Some("only")));
        assert_eq!(target.sentinel_login.password(), None);
        assert!(!format!("{:?}", parsed("redis://u:hunter2@a")).contains("hunter2"));
    }

    #[test]
    fn what_cannot_be_a_url_is_refused_and_not_shown() {
        for (text, faults) in [
            ("http://:hunter2@nowhere", 1),
            ("hunter2", 1),
            ("redis://", 1),
            ("unix:///hunter2", 1),
            ("redis://u:hunter2@", 1),
            ("redis://a,b/hunter2", 2),
            ("redis://a:port/hunter2#hunter2", 3),
            ("redis://a?hunter2=1", 1),
            ("redis+sentinel://a/", 1),
            ("redis+sentinel://a:hunter2/main/x?password=hunter2", 3),
            ("redis+cluster://a,,b/1", 2),
            ("redis+other://u:hunter2@a", 1),
            ("redis://%ff:hunter2%ff@a", 1),
        ] {
            let violations = Target::parse(text).expect_err(text);
            assert_eq!(violations.iter().count(), faults, "{text}: {violations:?}");
            assert!(violations.iter().all(|it| it.field == FIELD), "{violations:?}");
            assert!(!format!("{violations:?}").contains("hunter2"), "{violations:?}");
        }
    }

    #[test]
    fn an_address_that_is_told_without_a_host_is_the_tellers() {
        assert_eq!(Address::told("10.0.0.2:7000", "me"), Some(at("10.0.0.2", 7_000)));
        assert_eq!(Address::told(":7000", "me"), Some(at("me", 7_000)));
        assert_eq!(Address::told("?:7000", "me"), Some(at("me", 7_000)));
        assert_eq!(Address::told("fe80::1:7000", "me"), Some(at("fe80::1", 7_000)));
        assert_eq!(Address::told("nothing", "me"), None);
    }
}
