//! Revisions: an agent as each change left it, and the sealed secrets in them.

use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _,
};
use diesel_async::RunQueryDsl as _;

use super::rows::RevisionRow;
use crate::{
    agents::SealedToken,
    db::{
        Connection, query,
        schema::{voice_agent_revisions as revisions, voice_agents as agents},
        types::{At, Uid},
    },
    domain::{
        Result,
        ids::{TenantId, VoiceAgentId},
        keyring::Sealed,
        voice_agent::VoiceAgent,
    },
};

pub(super) async fn keep(conn: &mut Connection, row: RevisionRow) -> Result<()> {
    query!(conn, c => diesel::insert_into(revisions::table).values(row).execute(c).await)?;
    Ok(())
}

/// Newest first, those before `before`.
pub(super) async fn select(
    conn: &mut Connection,
    tenant: TenantId,
    id: VoiceAgentId,
    before: Option<i64>,
    limit: u16,
) -> Result<Vec<VoiceAgent>> {
    let created = agents::table.find((tenant, id)).select(agents::created_at);
    let Some(created_at) = query!(conn, c => created.first::<At>(c).await).optional()? else { return Ok(Vec::new()) };
    let of_agent = revisions::table
        .filter(revisions::tenant_id.eq(tenant))
        .filter(revisions::voice_agent_id.eq(id))
        .filter(revisions::revision.lt(before.unwrap_or(i64::MAX)))
        .order(revisions::revision.desc())
        .limit(limit.into());
    let rows = query!(conn, c => of_agent.select(RevisionRow::as_select()).load(c).await)?;
    rows.into_iter().map(|row| row.read(created_at)).collect()
}

/// Sealed secrets of all tenants, in the order of the primary key.
pub(super) async fn sealed(
    conn: &mut Connection,
    after: Option<(TenantId, VoiceAgentId, i64)>,
    limit: u16,
) -> Result<Vec<SealedToken>> {
    type Row = (Uid, Uid, i64, Option<Vec<u8>>);
    let rows: Vec<Row> = query!(conn, c => {
        let mut rows = revisions::table
            .select((
                revisions::tenant_id,
                revisions::voice_agent_id,
                revisions::revision,
                revisions::sealed_auth_token,
            ))
            .filter(revisions::sealed_auth_token.is_not_null())
            .into_boxed();
        if let Some((tenant, agent, revision)) = after {
            let same_tenant = revisions::tenant_id.eq(tenant);
            let same_agent = same_tenant.and(revisions::voice_agent_id.eq(agent));
            rows = rows.filter(
                revisions::tenant_id
                    .gt(tenant)
                    .or(same_tenant.and(revisions::voice_agent_id.gt(agent)))
                    .or(same_agent.and(revisions::revision.gt(revision))),
            );
        }
        rows.order((revisions::tenant_id, revisions::voice_agent_id, revisions::revision))
            .limit(limit.into())
            .load(c)
            .await
    })?;
    let token = |(tenant, agent, revision, sealed): Row| SealedToken {
        tenant: tenant.into(),
        agent: agent.into(),
        revision,
        sealed: Sealed::from_bytes(sealed.unwrap_or_default()),
    };
    Ok(rows.into_iter().map(token).collect())
}

pub(super) async fn reseal(conn: &mut Connection, old: SealedToken, sealed: Vec<u8>) -> Result<bool> {
    let held = old.sealed.as_bytes().to_vec();
    let revision = revisions::table
        .find((old.tenant, old.agent, old.revision))
        .filter(revisions::sealed_auth_token.eq(held.clone()));
    let put = revisions::sealed_auth_token.eq(sealed.clone());
    let written = query!(conn, c => diesel::update(revision).set(put).execute(c).await)?;
    // A secret that later changes left alone is in the agent, byte for byte.
    let agent = agents::table.find((old.tenant, old.agent)).filter(agents::sealed_auth_token.eq(held));
    let put = agents::sealed_auth_token.eq(sealed);
    query!(conn, c => diesel::update(agent).set(put).execute(c).await)?;
    Ok(written == 1)
}
