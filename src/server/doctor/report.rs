//! What the doctor says: lines for people, JSON for scripts, and no secret in either.

use std::fmt::Write as _;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use url::{Url, form_urlencoded};

use crate::config::Config;

/// A shorter one would be found within ordinary words.
const SECRET_LEAST_BYTES: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Ok,
    Warning,
    Fault,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) outcome: Outcome,
    pub(super) found: String,
    /// What to do; absent where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Ok, found: found.into(), advice: None }
    }

    pub(super) fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Warning, found: found.into(), advice: Some(advice.into()) }
    }

    pub(super) fn fault(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Fault, found: found.into(), advice: Some(advice.into()) }
    }
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    version: &'static str,
    /// Whether there is no fault; warnings are allowed.
    ok: bool,
    checks: Vec<Finding>,
}

impl Report {
    pub(super) fn new(mut checks: Vec<Finding>, redacted: &Redacted) -> Self {
        for finding in &mut checks {
            finding.found = redacted.cover(&one_line(&finding.found));
            finding.advice = finding.advice.take().map(|advice| one_line(&advice));
        }
        let ok = checks.iter().all(|finding| finding.outcome != Outcome::Fault);
        Self { version: env!("CARGO_PKG_VERSION"), ok, checks }
    }

    pub const fn is_ok(&self) -> bool {
        self.ok
    }

    /// A line a check.
    pub fn text(&self) -> String {
        let width = self.checks.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        self.checks.iter().fold(String::new(), |mut text, Finding { check, outcome, found, advice }| {
            let _ = write!(text, "{:<7}  {check:<width$}  {found}", outcome.as_str());
            if let Some(advice) = advice {
                let _ = write!(text, ". What to do: {advice}");
            }
            text.push('\n');
            text
        })
    }

    pub fn json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The error with what is behind it, each word once.
pub(super) fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}

/// The secrets of a configuration. No check puts one into what it says; what servers and libraries say is not ours.
#[derive(Default)]
pub(super) struct Redacted(Vec<String>);

impl Redacted {
    pub(super) fn of(config: &Config) -> Self {
        let mut all = Vec::new();
        for url in [&config.database_url, &config.redis_url].into_iter().flatten() {
            all.extend(of_url(url.expose_secret()));
        }
        let ring = config.secrets.key_ring.as_ref().map(SecretString::expose_secret).unwrap_or_default();
        all.extend(
            ring.split(['\n', ','])
                .flat_map(|entry| [entry, entry.split_once(':').map_or("", |(_, key)| key)])
                .map(|it| it.trim().to_owned()),
        );
        all.retain(|secret| secret.len() >= SECRET_LEAST_BYTES);
        // What holds another is covered as a whole.
        all.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(all)
    }

    pub(super) fn cover(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "[redacted]"))
    }
}

/// The URL itself, and its passwords as they are written and as they are meant.
fn of_url(text: &str) -> Vec<String> {
    let mut all = vec![text.to_owned()];
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let user_info = rest.rsplit_once('@').map_or("", |(user_info, _)| user_info);
    let password = user_info.split_once(':').map_or("", |(_, password)| password);
    all.push(password.to_owned());
    // Postgres also takes `host=… password=…`.
    let pairs = text.split_whitespace().filter_map(|pair| pair.strip_prefix("password="));
    all.extend(pairs.map(|password| password.trim_matches('\'').to_owned()));
    // One pair of a form is decoded as a form is, but for the blank.
    let meant =
        form_urlencoded::parse(password.replace('+', "%2B").as_bytes()).map(|(name, _)| name.into_owned()).next();
    all.extend(meant);
    for (pair, (name, value)) in query.split('&').zip(form_urlencoded::parse(query.as_bytes())) {
        if name.contains("password") {
            all.extend([value.into_owned(), pair.split_once('=').map_or("", |(_, value)| value).to_owned()]);
        }
    }
    // A URL as the library spells it.
    all.extend(Url::parse(text).ok().map(String::from));
    all
}

impl std::fmt::Debug for Redacted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Redacted").field(&self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_check_with_what_to_do_where_something_is() {
        let checks =
            vec![Finding::ok("redis", "answers"), Finding::fault("database.schema", "behind\n  by 2", "migrate")];
        let report = Report::new(checks, &Redacted::default());
        let text = "ok       redis            answers\nfault    database.schema  behind by 2. What to do: migrate\n";
        assert_eq!((report.text().as_str(), report.is_ok()), (text, false));
        let json: serde_json::Value = serde_json::from_str(&report.json().expect("JSON")).expect("JSON");
        assert_eq!((&json["ok"], &json["checks"][1]["outcome"]), (&false.into(), &"fault".into()));
        assert!(json["checks"][0].get("advice").is_none());
    }

    #[test]
    fn a_warning_is_no_fault() {
        assert!(Report::new(vec![Finding::warning("clock", "late", "wait")], &Redacted::default()).is_ok());
    }

    #[test]
    fn secrets_are_covered_as_they_are_written_and_as_they_are_meant() {
        for (url, said) in [
            ("postgres://u:hunter%2F2@h/d", "no: hunter%2F2"),
            ("postgres://u:hunter%2F2@h/d", "no: hunter/2"),
            ("redis+sentinel://:open@h/m?sentinel_password=sesame%21", "no: sesame!"),
            ("redis+sentinel://:open@h/m?sentinel_password=sesame%21", "no: sesame%21"),
            ("redis+sentinel://:open@h/m?sentinel_password=sesame%21", "no: open"),
            ("host=h password=hunter2", "no: host=h password=hunter2"),
            ("host=h password='hunter2' user=u", "no: hunter2"),
        ] {
            assert_eq!(Redacted(of_url(url)).cover_long(said), "no: [redacted]", "{url}");
        }
    }

    impl Redacted {
        fn cover_long(mut self, text: &str) -> String {
            self.0.retain(|secret| secret.len() >= SECRET_LEAST_BYTES);
            self.0.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
            self.cover(text)
        }
    }
}
