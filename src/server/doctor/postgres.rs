//! The database of `voxgate serve`.

use secrecy::SecretString;

use super::report::{Finding, Outcome, in_words};
use crate::{
    config::Config,
    db::examine::{self, PostgresFound, PostgresServer, Schema},
    domain::Clock,
};

const SCHEMA: &str = "database.schema";
/// What the tests run on.
const TESTED: i32 = 15;
/// Migrations that are named.
const NAMED: usize = 3;

pub(super) fn absent() -> Finding {
    let found = "VOXGATE_DATABASE_URL is not set, and VOXGATE_REDIS_URL is";
    Finding::fault("database", found, "set it to postgres://…: `voxgate serve` needs both, `voxgate dev` neither")
}

/// What was found, and the server itself where it answers.
pub(super) async fn examine(
    url: &SecretString,
    config: &Config,
    clock: &dyn Clock,
) -> (Vec<Finding>, Option<PostgresFound>) {
    let faults = examine::faults(url, &config.database);
    if !faults.is_empty() {
        let advice = "mend VOXGATE_DATABASE_URL and the files of TLS beside it";
        return (vec![Finding::fault("database", faults.join("; "), advice)], None);
    }
    match examine::postgres(url, &config.database, clock).await {
        Ok(found) => {
            let findings = vec![
                server(&found.server),
                role(&found.server),
                schema(&found.schema),
                connections(&found.server, config.database.max_connections),
            ];
            (findings, Some(found))
        }
        Err(error) => {
            let why = in_words(&error);
            let found = format!("it cannot be asked: {why}; its role, schema and connections were not looked at");
            let advice = "see that Postgres runs and that host, port, user, password and database of VOXGATE_DATABASE_URL are its own";
            (vec![Finding::fault("database", found, advice)], None)
        }
    }
}

fn server(server: &PostgresServer) -> Finding {
    let found = format!("Postgres {} answers", server.version);
    if server.is_standby {
        let advice = "name the primary; of several hosts, `target_session_attrs=read-write` finds it";
        return Finding::fault("database", format!("{found}, a standby, which cannot be written"), advice);
    }
    if server.version_num < TESTED * 10_000 {
        return Finding::warning("database", found, format!("upgrade it: Voxgate is tested on Postgres {TESTED}"));
    }
    Finding::ok("database", found)
}

fn role(server: &PostgresServer) -> Finding {
    let role = &server.role;
    if server.bypasses_rls {
        let found = format!("{role} bypasses the row-level security that keeps tenants apart; the service refuses it");
        let advice =
            "connect as a role of your own for Voxgate: ALTER ROLE … NOSUPERUSER NOBYPASSRLS, owner of its database";
        return Finding::fault("database.role", found, advice);
    }
    Finding::ok("database.role", format!("row-level security binds {role}"))
}

/// Of either database; `serve` never migrates, so a schema that is behind keeps it from its work.
pub(super) fn schema(schema: &Schema) -> Finding {
    schema_of(schema, Outcome::Fault, "run `voxgate migrate`; beside replicas that serve it is safe")
}

pub(super) fn schema_of(schema: &Schema, behind: Outcome, migrate: &str) -> Finding {
    let Schema { known, missing, foreign } = schema;
    let some = |names: &[String]| {
        let more = if names.len() > NAMED { ", …" } else { "" };
        format!("{}{more}", names[..names.len().min(NAMED)].join(", "))
    };
    match (missing.len(), foreign.len()) {
        (0, 0) => Finding::ok(SCHEMA, format!("equal to this binary's {known} migrations")),
        (lacking, 0) if lacking == *known => {
            let found = "empty: none of this binary's migrations has run";
            Finding { check: SCHEMA, outcome: behind, found: found.to_owned(), advice: Some(migrate.to_owned()) }
        }
        (lacking, 0) => {
            let found = format!("behind this binary by {lacking} of {known} migrations: {}", some(missing));
            Finding { check: SCHEMA, outcome: behind, found, advice: Some(migrate.to_owned()) }
        }
        (0, ahead) => {
            let found = format!("ahead of this binary by {ahead} migrations: {}", some(foreign));
            let advice = "a later release has migrated it, beside which this one works: upgrade this one next";
            Finding::warning(SCHEMA, found, advice)
        }
        (lacking, ahead) => {
            let found = format!(
                "another one: it lacks {lacking} migrations of this binary's ({}) and has {ahead} that it does not know ({})",
                some(missing),
                some(foreign)
            );
            Finding::fault(
                SCHEMA,
                found,
                "see whether the URL names another database, or the binary is of another line",
            )
        }
    }
}

/// Whether as many replicas as run at once in an upgrade have room.
fn connections(server: &PostgresServer, pool: usize) -> Finding {
    // One more to listen by.
    let each = i64::try_from(pool).unwrap_or(i64::MAX).saturating_add(1);
    let others = server.used.saturating_sub(server.ours).max(0);
    let most = i64::from(server.max_connections) - i64::from(server.reserved);
    let limits = [server.role_limit, server.database_limit].into_iter().flatten().map(i64::from);
    let room = limits.fold(most - others, i64::min).max(0);
    let replicas = room / each;
    let found = format!(
        "room for {replicas} replicas of {each} connections each (database.max_connections and one): of {} there are {} \
         reserved, others use {others}{}{}",
        server.max_connections,
        server.reserved,
        server.role_limit.map(|limit| format!(", the role may have {limit}")).unwrap_or_default(),
        server.database_limit.map(|limit| format!(", the database {limit}")).unwrap_or_default(),
    );
    let advice = "raise the server's max_connections (or CONNECTION LIMIT), or lower database.max_connections";
    match replicas {
        0 => Finding::fault("database.connections", found, advice),
        1 => {
            let found = format!("{found}; an upgrade has an old and a new one at once");
            Finding::warning("database.connections", found, advice)
        }
        _ => Finding::ok("database.connections", found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_server() -> PostgresServer {
        PostgresServer {
            version: "15.1".to_owned(),
            version_num: 150_001,
            role: "voxgate".to_owned(),
            bypasses_rls: false,
            is_standby: false,
            max_connections: 100,
            reserved: 3,
            used: 30,
            ours: 20,
            role_limit: None,
            database_limit: None,
        }
    }

    #[test]
    fn a_pool_needs_one_connection_more_and_what_is_ours_is_not_in_the_way() {
        // 100 - 3 - 10 of others.
        let outcome = |pool| connections(&a_server(), pool).outcome;
        assert_eq!(
            [outcome(42), outcome(43), outcome(86), outcome(87)],
            [Outcome::Ok, Outcome::Warning, Outcome::Warning, Outcome::Fault]
        );
        let limited = PostgresServer { role_limit: Some(16), ..a_server() };
        assert_eq!(connections(&limited, 16).outcome, Outcome::Fault);
        assert_eq!(
            connections(&PostgresServer { database_limit: Some(17), ..a_server() }, 16).outcome,
            Outcome::Warning
        );
    }

    #[test]
    fn a_role_that_is_not_bound_a_standby_and_an_old_server_are_found() {
        assert_eq!(role(&PostgresServer { bypasses_rls: true, ..a_server() }).outcome, Outcome::Fault);
        assert_eq!(server(&PostgresServer { is_standby: true, ..a_server() }).outcome, Outcome::Fault);
        assert_eq!(server(&PostgresServer { version_num: 140_010, ..a_server() }).outcome, Outcome::Warning);
        assert_eq!((server(&a_server()).outcome, role(&a_server()).outcome), (Outcome::Ok, Outcome::Ok));
    }

    #[test]
    fn a_schema_is_judged_by_what_each_side_lacks() {
        let of = |missing: usize, foreign: usize| {
            let names = |count: usize| (0..count).map(|it| it.to_string()).collect();
            schema(&Schema { known: 5, missing: names(missing), foreign: names(foreign) })
        };
        assert_eq!(
            [of(0, 0), of(2, 0), of(5, 0), of(0, 1), of(1, 1)].map(|finding| finding.outcome),
            [Outcome::Ok, Outcome::Fault, Outcome::Fault, Outcome::Warning, Outcome::Fault]
        );
        assert!(of(5, 0).found.starts_with("empty"));
        assert!(of(4, 0).found.ends_with(": 0, 1, 2, …"), "{:?}", of(4, 0));
    }
}
