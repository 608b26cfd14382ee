//! The configuration: what cannot work, all at once, and whether the files that it names can be read.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use super::report::Finding;
use crate::config::Config;

const CHECK: &str = "configuration";

/// The configuration where it can be read at all, and what was found.
pub(super) fn examine(file: Option<&Path>) -> (Option<Config>, Vec<Finding>) {
    let (config, mut faults) = match Config::read(file) {
        Ok(read) => read,
        Err(error) => {
            let found = format!("it cannot be read, so nothing else was looked at: {}", without_excerpt(&error));
            let advice = "mend the file or the variable; README, Configuration, lists all keys";
            return (None, vec![Finding::fault(CHECK, found, advice)]);
        }
    };
    let refused =
        |faults: &[String]| Finding::fault(CHECK, faults.join("; "), "mend each of these: no command starts before");
    let Some(config) = config else { return (None, vec![refused(&faults)]) };
    let read_from =
        file.map_or_else(|| "the environment".to_owned(), |file| format!("{} and the environment", file.display()));
    let home = match (&config.database_url, &config.redis_url) {
        (None, None) => "the embedded default, as `voxgate dev` runs it",
        _ => "Postgres and Redis, as `voxgate serve` runs on them",
    };
    if config.database_url.is_none() && config.redis_url.is_none() && config.tls.is_on() {
        faults.push("tls is for `voxgate serve`: `voxgate dev` refuses it".to_owned());
    }
    let of_values =
        if faults.is_empty() { Finding::ok(CHECK, format!("read from {read_from}: {home}")) } else { refused(&faults) };
    let of_files = files(&config);
    (Some(config), std::iter::once(of_values).chain(of_files).collect())
}

/// A file that cannot be parsed is told of with the line at fault, which may hold a secret.
fn without_excerpt(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let is_excerpt = |line: &&str| {
        let start = line.trim_start_matches(|it: char| it.is_ascii_digit() || it == ' ');
        start.starts_with('|')
    };
    text.lines().filter(|line| !is_excerpt(line)).collect::<Vec<_>>().join(" ")
}

/// Nothing where none is named.
fn files(config: &Config) -> Option<Finding> {
    let named = [
        ("secrets.key_ring_file", &config.secrets.key_ring_file),
        ("tls.cert_file", &config.tls.cert_file),
        ("tls.key_file", &config.tls.key_file),
        ("tls.client_ca_file", &config.tls.client_ca_file),
        ("database.tls_ca_file", &config.database.tls_ca_file),
        ("database.tls_cert_file", &config.database.tls_cert_file),
        ("database.tls_key_file", &config.database.tls_key_file),
        ("redis.tls_ca_file", &config.redis.tls_ca_file),
        ("redis.tls_cert_file", &config.redis.tls_cert_file),
        ("redis.tls_key_file", &config.redis.tls_key_file),
        ("webhooks.ca_file", &config.webhooks.ca_file),
        ("traces.ca_file", &config.traces.ca_file),
    ];
    let named: Vec<_> = named.iter().filter_map(|(key, path)| Some((*key, path.as_deref()?))).collect();
    if named.is_empty() {
        return None;
    }
    let unreadable: Vec<_> = named.iter().filter_map(|(key, path)| unreadable(key, path)).collect();
    if !unreadable.is_empty() {
        let advice = "put the files there, and give the service's user the right to read them";
        return Some(Finding::fault("files", unreadable.join("; "), advice));
    }
    let secret = ["secrets.key_ring_file", "tls.key_file", "database.tls_key_file", "redis.tls_key_file"];
    let open: Vec<_> = named.iter().filter(|(key, path)| secret.contains(key) && is_for_everyone(path)).collect();
    if !open.is_empty() {
        let open: Vec<_> = open.iter().map(|(key, path)| format!("{key} {}", path.display())).collect();
        let found = format!("every user of this machine may read {}", open.join(", "));
        return Some(Finding::warning("files", found, "take the right from all but the service's user: chmod o-rwx"));
    }
    Some(Finding::ok("files", format!("all {} that are named can be read", named.len())))
}

fn unreadable(key: &str, path: &Path) -> Option<String> {
    // A folder opens, and is found out by its first byte.
    let read = File::open(path).and_then(|mut file| file.read(&mut [0]));
    read.err().map(|error| format!("{key} {} cannot be read: {error}", path.display()))
}

fn is_for_everyone(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::{super::report::Outcome, *};

    fn examined(text: &str) -> (Option<Config>, Vec<Finding>) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("written");
        examine(Some(file.path()))
    }

    #[test]
    fn faults_of_values_are_told_together_and_leave_the_rest_to_be_looked_at() {
        let (config, findings) = examined("[listen]\nmax_connections = 0\n[redis]\ncommand_timeout_ms = 0");
        assert!(config.is_some());
        assert_eq!(findings[0].outcome, Outcome::Fault);
        for key in ["listen.max_connections must", "redis.command_timeout_ms must"] {
            assert!(findings[0].found.contains(key), "{findings:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_toml_is_told_without_its_lines() {
        let (config, findings) = examined("database_url = \"postgres://u:hunter2@h/d");
        assert!(config.is_none());
        assert!(!findings[0].found.contains("hunter2"), "{findings:?}");
        assert!(findings[0].found.contains("line 1"), "{findings:?}");
    }

    #[test]
    fn every_file_that_cannot_be_read_is_named() {
        let (_, findings) = examined(
            "[secrets]\nkey_ring_file = '/nowhere/ring'\n[webhooks]\nca_file = '/nowhere/ca'\n\
             [tls]\ncert_file = '/'\nkey_file = '/nowhere/key'",
        );
        let files = findings.iter().find(|finding| finding.check == "files").expect("files are named");
        assert_eq!(files.outcome, Outcome::Fault);
        for key in ["secrets.key_ring_file", "webhooks.ca_file", "tls.cert_file", "tls.key_file"] {
            assert!(files.found.contains(key), "{files:?}");
        }
    }
}
