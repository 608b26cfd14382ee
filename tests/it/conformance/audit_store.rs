//! What every `AuditStore` promises.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use voxgate::{
    db::Database,
    domain::{
        Env,
        audit::{AuditEntry, AuditFilter},
        ids::{AuditEntryId, SessionId, TenantId},
        page::{Cursor, PageRequest},
    },
};

use super::{Stores, all_at_once, at, call, on_every_backend};
use crate::harness::postgres::{execute, fresh_database, patient};

on_every_backend![
    entries_read_back_as_they_were_written,
    an_entry_that_is_written_again_stays_as_it_is,
    pages_have_neither_gap_nor_duplicate_while_entries_come,
    a_filter_is_of_its_call_session_action_and_time,
    another_tenants_entries_do_not_exist,
];

/// `seconds` after the beginning of time, of the call `on`.
fn entry(tenant: TenantId, on: &str, seconds: u64) -> AuditEntry {
    AuditEntry {
        id: AuditEntryId::new(&Env::system()),
        tenant,
        at: at(seconds),
        actor: "vg_test_01234567".into(),
        action: "Hold".into(),
        target: String::new(),
        call: Some(call(on)),
        session: None,
        error_reason: String::new(),
        details: serde_json::Map::new(),
    }
}

async fn append(stores: &Stores, entries: &[AuditEntry]) {
    stores.audit.append(entries[0].tenant, entries).await.expect("written");
}

/// All pages of the list.
async fn list(stores: &Stores, tenant: TenantId, filter: &AuditFilter, size: u16) -> Vec<AuditEntry> {
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = stores.audit.list(tenant, filter, PageRequest { size, after }).await.expect("a page");
        assert!(page.entries.len() <= usize::from(size));
        listed.extend(page.entries);
        after = page.next;
        if after.is_none() {
            return listed;
        }
    }
}

async fn entries_read_back_as_they_were_written(stores: &Stores) {
    let tenant = stores.tenant().await;
    let details = json!({"operation_id": "op_1", "replayed": true, "idempotency_key": "ключ-🎧", "count": 3});
    let full = AuditEntry {
        actor: "spiffe://mesh/flöw".into(),
        action: "Transfer".into(),
        target: "agent_queue:поддержка 🎧".into(),
        session: Some(SessionId::new(&Env::system())),
        error_reason: "INVALID_CALL_STATE".into(),
        details: details.as_object().expect("an object").clone(),
        ..entry(tenant, "call", 2)
    };
    let bare = AuditEntry { call: None, ..entry(tenant, "any", 1) };
    append(stores, &[bare.clone(), full.clone()]).await;
    assert_eq!(list(stores, tenant, &AuditFilter::default(), 10).await, [full, bare], "newest first");
}

async fn an_entry_that_is_written_again_stays_as_it_is(stores: &Stores) {
    let tenant = stores.tenant().await;
    let (first, next) = (entry(tenant, "call", 1), entry(tenant, "call", 2));
    append(stores, std::slice::from_ref(&first)).await;
    // A commit of which nobody heard is tried again, with what has come since.
    append(stores, &[AuditEntry { actor: "other".into(), ..first.clone() }, next.clone()]).await;
    assert_eq!(list(stores, tenant, &AuditFilter::default(), 10).await, [next, first]);
}

async fn pages_have_neither_gap_nor_duplicate_while_entries_come(stores: &Stores) {
    let tenant = stores.tenant().await;
    // Four of a moment, so that the order within one matters too.
    let old: Vec<_> = (0..40).map(|n| entry(tenant, "call", n / 4)).collect();
    append(stores, &old).await;
    let writers = (0..4).map(|writer| {
        let audit = stores.audit.clone();
        tokio::spawn(async move {
            for n in 0..20 {
                let new = entry(tenant, "call", 100 + writer * 20 + n);
                audit.append(tenant, &[new]).await.expect("written");
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let listed = list(stores, tenant, &AuditFilter::default(), 7).await;
    for writer in writers {
        writer.await.expect("no panic");
    }
    let ids: BTreeSet<_> = listed.iter().map(|entry| entry.id).collect();
    assert_eq!(ids.len(), listed.len(), "a row came twice");
    assert!(old.iter().all(|entry| ids.contains(&entry.id)), "a row is missing");
    let order = |entry: &AuditEntry| {
        let Cursor { created_at, id } = entry.cursor();
        (created_at, id)
    };
    assert!(listed.iter().map(order).rev().is_sorted(), "newest first");
    let read = all_at_once(3, |_| {
        let audit = stores.audit.clone();
        let page = PageRequest { size: 100, after: None };
        async move { audit.list(tenant, &AuditFilter::default(), page).await.expect("a page").next.is_some() }
    });
    assert_eq!(read.await, [true; 3], "120 entries");
    assert_eq!(list(stores, tenant, &AuditFilter::default(), 100).await.len(), 120);
}

async fn a_filter_is_of_its_call_session_action_and_time(stores: &Stores) {
    let tenant = stores.tenant().await;
    let session = SessionId::new(&Env::system());
    let entries = [
        entry(tenant, "a", 1),
        AuditEntry { session: Some(session), ..entry(tenant, "a", 2) },
        AuditEntry { action: "Mute".into(), ..entry(tenant, "a", 3) },
        entry(tenant, "b", 4),
        AuditEntry { session: Some(session), call: None, ..entry(tenant, "b", 5) },
    ];
    append(stores, &entries).await;
    let of = async |filter: AuditFilter| {
        let found = list(stores, tenant, &filter, 2).await;
        let number = |found: &AuditEntry| entries.iter().position(|entry| entry == found).expect("one of them") + 1;
        found.iter().map(number).collect::<Vec<_>>()
    };
    let any = AuditFilter::default;
    assert_eq!(of(any()).await, [5, 4, 3, 2, 1]);
    assert_eq!(of(AuditFilter { call: Some(call("a")), ..any() }).await, [3, 2, 1]);
    assert_eq!(of(AuditFilter { call: Some(call("c")), ..any() }).await, [0; 0]);
    assert_eq!(of(AuditFilter { session: Some(session), ..any() }).await, [5, 2]);
    assert_eq!(of(AuditFilter { action: Some("Mute".into()), ..any() }).await, [3]);
    assert_eq!(of(AuditFilter { action: Some("mute".into()), ..any() }).await, [0; 0]);
    assert_eq!(of(AuditFilter { from: Some(at(2)), before: Some(at(4)), ..any() }).await, [3, 2]);
    assert_eq!(of(AuditFilter { call: Some(call("a")), before: Some(at(3)), ..any() }).await, [2, 1]);
    let all = AuditFilter { call: Some(call("a")), session: Some(session), action: Some("Hold".into()), ..any() };
    assert_eq!(of(AuditFilter { from: Some(at(0)), before: Some(at(9)), ..all }).await, [2]);
}

async fn another_tenants_entries_do_not_exist(stores: &Stores) {
    let (ours, theirs) = (stores.tenant().await, stores.tenant().await);
    let session = Some(SessionId::new(&Env::system()));
    append(stores, &[AuditEntry { session, ..entry(theirs, "call", 1) }]).await;
    let by_call = AuditFilter { call: Some(call("call")), ..AuditFilter::default() };
    for filter in [AuditFilter::default(), by_call, AuditFilter { session, ..AuditFilter::default() }] {
        assert_eq!(list(stores, ours, &filter, 10).await, []);
        assert_eq!(list(stores, theirs, &filter, 10).await.len(), 1);
    }
}

const MONTH: Duration = Duration::from_hours(30 * 24);

/// One that may go, and one that has to stay for an hour more.
async fn old_and_young(stores: &Stores) -> (TenantId, AuditEntry) {
    let (tenant, now) = (stores.tenant().await, Env::system().now());
    let hour = Duration::from_hours(1);
    let old = AuditEntry { at: now.minus(MONTH + hour), ..entry(tenant, "old", 0) };
    let young = AuditEntry { at: now.minus(MONTH).plus(hour), ..entry(tenant, "young", 0) };
    append(stores, &[old, young.clone()]).await;
    (tenant, young)
}

const REFUSED: [&str; 4] = [
    "UPDATE audit_entries SET actor = 'nobody'",
    "UPDATE audit_entries SET created_at = created_at WHERE call_id = 'old'",
    "DELETE FROM audit_entries WHERE call_id = 'young'",
    "DELETE FROM audit_entries",
];

#[tokio::test(flavor = "multi_thread")]
async fn postgres_changes_no_entry_and_removes_none_that_is_younger_than_30_days() {
    let url = fresh_database();
    let stores = Stores::of(patient(&url), None);
    let (tenant, young) = old_and_young(&stores).await;
    let within = |sql: &str| execute(&url, &format!("BEGIN; SET LOCAL voxgate.tenant = '{tenant}'; {sql}; COMMIT"));
    for sql in REFUSED.into_iter().chain(["TRUNCATE audit_entries"]) {
        let error = within(sql).expect_err(sql);
        assert!(error.contains("append only"), "{sql}: {error}");
    }
    assert_eq!(list(&stores, tenant, &AuditFilter::default(), 10).await.len(), 2);
    within("DELETE FROM audit_entries WHERE call_id = 'old'").expect("removed");
    assert_eq!(list(&stores, tenant, &AuditFilter::default(), 10).await, [young]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_changes_no_entry_and_removes_none_that_is_younger_than_30_days() {
    use diesel::{Connection as _, connection::SimpleConnection as _};
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("voxgate.db");
    let db = Database::sqlite(&path).expect("a path");
    db.migrate().await.expect("migrations run");
    let stores = Stores::of(db, None);
    let (tenant, young) = old_and_young(&stores).await;
    let mut raw = diesel::SqliteConnection::establish(path.to_str().expect("UTF-8")).expect("the file");
    raw.batch_execute("PRAGMA busy_timeout = 10000").expect("set");
    for sql in REFUSED {
        let error = raw.batch_execute(sql).expect_err(sql).to_string();
        assert!(error.contains("append only"), "{sql}: {error}");
    }
    assert_eq!(list(&stores, tenant, &AuditFilter::default(), 10).await.len(), 2);
    raw.batch_execute("DELETE FROM audit_entries WHERE call_id = 'old'").expect("removed");
    assert_eq!(list(&stores, tenant, &AuditFilter::default(), 10).await, [young]);
}
