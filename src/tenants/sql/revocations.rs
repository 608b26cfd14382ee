//! Revoked callback tokens in SQL. What is new is so by the database's clock, which all replicas share.

use diesel::{ExpressionMethods as _, QueryDsl as _, dsl::sql, sql_types::Bool};
use diesel_async::RunQueryDsl as _;

use crate::{
    db::{
        Connection, query,
        schema::revoked_tokens,
        types::{At, Uid},
    },
    domain::Result,
    tenants::Revocation,
};

/// As far as [`LOOK_BACK`](super::super::revocations::LOOK_BACK) reaches.
const NEW_IN_POSTGRES: &str = "revoked_at >= now() - interval '10 seconds'";
const NEW_IN_SQLITE: &str = "revoked_at >= (CAST(strftime('%s', 'now') AS INTEGER) - 10) * 1000000";
const GOOD_IN_POSTGRES: &str = "until > now()";
const GOOD_IN_SQLITE: &str = "until > CAST(strftime('%s', 'now') AS INTEGER) * 1000000";

pub(super) async fn revoke(conn: &mut Connection, revocation: Revocation) -> Result<()> {
    let Revocation { tenant, jti, sandbox, until } = revocation;
    if !sandbox {
        // One that was for the sandbox alone is for both from now on.
        let known = revoked_tokens::table.find((tenant, Uid(jti))).filter(revoked_tokens::sandbox);
        query!(conn, c => diesel::delete(known).execute(c).await)?;
    }
    let row = (
        revoked_tokens::tenant_id.eq(tenant),
        revoked_tokens::jti.eq(Uid(jti)),
        revoked_tokens::sandbox.eq(sandbox),
        revoked_tokens::until.eq(until),
    );
    let insert = diesel::insert_into(revoked_tokens::table).values(row).on_conflict_do_nothing();
    match conn {
        Connection::Postgres(pg) => insert.execute(&mut pg.session).await?,
        Connection::Sqlite(sqlite) => insert.execute(sqlite).await?,
    };
    Ok(())
}

pub(super) async fn read(conn: &mut Connection, only_new: bool) -> Result<Vec<Revocation>> {
    let is_sqlite = matches!(conn, Connection::Sqlite(_));
    let wanted = match (only_new, is_sqlite) {
        (true, false) => NEW_IN_POSTGRES,
        (true, true) => NEW_IN_SQLITE,
        (false, false) => GOOD_IN_POSTGRES,
        (false, true) => GOOD_IN_SQLITE,
    };
    let columns = (revoked_tokens::tenant_id, revoked_tokens::jti, revoked_tokens::sandbox, revoked_tokens::until);
    let found = revoked_tokens::table.filter(sql::<Bool>(wanted)).select(columns);
    let rows: Vec<(Uid, Uid, bool, At)> = query!(conn, c => found.load(c).await)?;
    let read = |(tenant, jti, sandbox, until): (Uid, Uid, bool, At)| Revocation {
        tenant: tenant.into(),
        jti: jti.0,
        sandbox,
        until: until.into(),
    };
    Ok(rows.into_iter().map(read).collect())
}
