//! Files of TLS on the way to a store, as the configuration names them: whether they can work, and what they hold now.

use std::{io, path::Path};

use crate::domain::violations::{Fault, Violations};

/// A chain has some kilobytes, a bundle of authorities some hundred.
const MAX_BYTES: u64 = 1024 * 1024;

/// What is configured for one store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TlsFiles<'f> {
    /// Of the configuration.
    pub(crate) table: &'static str,
    /// The server's authorities.
    pub(crate) ca: Option<&'f Path>,
    /// What the server is shown.
    pub(crate) cert: Option<&'f Path>,
    pub(crate) key: Option<&'f Path>,
}

impl TlsFiles<'_> {
    /// What cannot work, each by its key: files without TLS, for which there is a word, half a pair, and what cannot be
    /// read.
    pub(crate) fn check(self, without_tls: Option<&str>, violations: &mut Violations) {
        let Self { table, ca, cert, key } = self;
        let field = |name: &str| format!("{table}.{name}");
        for (name, path) in [("tls_ca_file", ca), ("tls_cert_file", cert), ("tls_key_file", key)] {
            let Some(path) = path else { continue };
            if let Some(word) = without_tls {
                violations.add(field(name), Fault::new(word));
            } else if let Err(error) = read(path) {
                violations.add(field(name), Fault::new(format!("cannot be read: {error}")));
            }
        }
        match (cert, key) {
            (Some(_), None) => violations.add(field("tls_key_file"), Fault::required()),
            (None, Some(_)) => violations.add(field("tls_cert_file"), Fault::required()),
            _ => {}
        }
    }
}

/// What a file holds, if that is no more than one of TLS may have.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), vec![b'x'; 1024 * 1024]).expect("written");
        assert_eq!(read(file.path()).expect("as large as may be").len(), 1024 * 1024);
        std::fs::write(file.path(), vec![b'x'; 1024 * 1024 + 1]).expect("written");
        assert!(read(file.path()).expect_err("one more").to_string().contains("1 MiB"));
    }
}
