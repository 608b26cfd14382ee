//! Which process of Redis a connection leads to.
//!
//! After a failover, or a restart from a file, the address is the same and the data may be older. The `run_id` tells: it
//! is random and drawn anew by each process.

use std::{sync::Arc, time::Duration};

use deadpool_redis::redis::aio::MultiplexedConnection;

use super::dial::{Why, ask};

/// The server's `run_id`. Empty where INFO is forbidden: losses by failover then go unnoticed, all else works.
pub(super) async fn learn(connection: &mut MultiplexedConnection, limit: Duration) -> Result<Arc<str>, Why> {
    match ask::<String>(connection, &["INFO", "server"], limit).await {
        Ok(info) => Ok(field(&info, "run_id").unwrap_or_default().into()),
        Err(why) if is_forbidden(&why) => {
            tracing::warn!(error = why, "Redis does not tell which one it is");
            Ok("".into())
        }
        Err(why) => Err(why),
    }
}

/// Whether the login may not ask that.
fn is_forbidden(why: &str) -> bool {
    why.to_ascii_uppercase().contains("NOPERM")
}

/// The value of `name:value` in what INFO answers.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_that_may_not_ask_is_told_from_a_server_that_does_not_answer() {
        assert!(is_forbidden("NoPerm: this user has no permissions to run the 'info' command"));
        assert!(is_forbidden("NOPERM no") && !is_forbidden("no answer to INFO within 1s"));
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrun_id_x:no\r\nrun_id:abc\r\n";
        assert_eq!((field(info, "run_id"), field(info, "run"), field("", "run_id")), (Some("abc"), None, None));
    }
}
