//! What every `OperationStore` promises.

use voxgate::{
    control::{Begun, Failure, Operation, OperationState},
    domain::{
        Env,
        hash::Sha256,
        ids::{OperationId, SessionId, TenantId},
        session::{CallState, Outcome},
        verb::{Destination, GetCallState, Hangup, Hold, Transfer, Unhold, Verb, VerbResult},
    },
};

use super::{Stores, all_at_once, at, call, on_every_backend};

on_every_backend![
    an_operation_reads_back_as_it_was_written,
    another_tenants_operation_does_not_exist,
    a_key_begins_once_in_a_call,
    a_key_begun_from_sixteen_tasks_is_new_once,
    a_forgotten_key_begins_again,
    a_forgotten_key_begun_from_sixteen_tasks_is_new_once,
    what_became_of_an_operation_is_recorded,
    an_unknown_fate_is_resolved_later,
    a_final_state_stays,
    a_key_is_found_in_its_own_call_while_it_is_remembered,
    a_withdrawn_operation_leaves_its_key_free,
];

/// An operation on the call `on`, under a session of its own.
fn operation(tenant: TenantId, on: &str, key: &str) -> Operation {
    Operation {
        id: OperationId::new(&Env::system()),
        tenant,
        session: SessionId::new(&Env::system()),
        call: call(on),
        verb: Hold { moh_url: Some("https://moh.example/a".into()) }.into(),
        key: key.parse().expect("a key"),
        digest: Sha256::of("request"),
        state: OperationState::Accepted,
        accepted_at: at(0),
        dispatched_at: None,
        finished_at: None,
        result: None,
        failure: None,
    }
}

async fn begin(stores: &Stores, operation: &Operation) -> Option<Operation> {
    match stores.operations.begin(operation.tenant, operation, at(0)).await.expect("an answer") {
        Begun::New => None,
        Begun::Existing(existing) => Some(*existing),
    }
}

async fn get(stores: &Stores, operation: &Operation) -> Option<Operation> {
    stores.operations.get(operation.tenant, operation.id).await.expect("an answer")
}

async fn record(stores: &Stores, operation: &Operation) -> bool {
    stores.operations.record(operation.tenant, operation).await.expect("an answer")
}

async fn an_operation_reads_back_as_it_was_written(stores: &Stores) {
    let tenant = stores.tenant().await;
    let metadata = || serde_json::json!({"ключ": [1.5, null, "🎧"]}).as_object().cloned().expect("an object");
    let destination = Some(Destination::AgentQueue("support".into()));
    let verbs: [Verb; 5] = [
        GetCallState.into(),
        Hangup { metadata: metadata() }.into(),
        Hold { moh_url: None }.into(),
        Transfer { destination, metadata: metadata() }.into(),
        Unhold.into(),
    ];
    for verb in verbs {
        let on = verb.name().as_str().to_owned();
        let written = Operation { verb, ..operation(tenant, &on, "~key!") };
        assert_eq!(begin(stores, &written).await, None);
        assert_eq!(get(stores, &written).await, Some(written));
    }
}

async fn another_tenants_operation_does_not_exist(stores: &Stores) {
    let (owner, other) = (stores.tenant().await, stores.tenant().await);
    let theirs = operation(owner, "call", "key");
    begin(stores, &theirs).await;
    assert_eq!(stores.operations.get(other, theirs.id).await.expect("an answer"), None);
    let change = Operation { state: OperationState::Failed, ..theirs.clone() };
    assert!(!stores.operations.record(other, &change).await.expect("an answer"));
    assert_eq!(get(stores, &theirs).await, Some(theirs.clone()));
    assert_eq!(begin(stores, &operation(other, "call", "key")).await, None, "keys of two tenants do not meet");
}

async fn a_key_begins_once_in_a_call(stores: &Stores) {
    let tenant = stores.tenant().await;
    let first = operation(tenant, "call", "key");
    assert_eq!(begin(stores, &first).await, None);
    let of_the_same_session = Operation { session: first.session, ..operation(tenant, "call", "key") };
    let of_another_session = operation(tenant, "call", "key");
    // Of another request: told apart by the digest of the one that stands.
    let other = Operation { digest: Sha256::of("another"), ..operation(tenant, "call", "key") };
    for retry in [&of_the_same_session, &of_another_session, &other, &first] {
        assert_eq!(begin(stores, retry).await, Some(first.clone()));
    }
    for (on, key) in [("call", "Key"), ("Call", "key")] {
        // Also under one session.
        let different = Operation { session: first.session, ..operation(tenant, on, key) };
        assert_eq!(begin(stores, &different).await, None);
    }
}

async fn a_key_begun_from_sixteen_tasks_is_new_once(stores: &Stores) {
    let tenant = stores.tenant().await;
    raced(stores, tenant, at(0)).await;
}

async fn a_forgotten_key_begins_again(stores: &Stores) {
    let tenant = stores.tenant().await;
    let first = Operation { accepted_at: at(10), ..operation(tenant, "call", "key") };
    begin(stores, &first).await;
    let second = Operation { accepted_at: at(20), ..operation(tenant, "call", "key") };
    let at_the_limit = stores.operations.begin(tenant, &second, at(10)).await.expect("an answer");
    assert!(matches!(at_the_limit, Begun::Existing(_)), "{at_the_limit:?}");
    let later = stores.operations.begin(tenant, &second, at(11)).await.expect("an answer");
    assert!(matches!(later, Begun::New), "{later:?}");
    assert_eq!(get(stores, &second).await, Some(second));
}

async fn a_forgotten_key_begun_from_sixteen_tasks_is_new_once(stores: &Stores) {
    let tenant = stores.tenant().await;
    begin(stores, &operation(tenant, "call", "key")).await;
    raced(stores, tenant, at(1)).await;
}

/// Sixteen tasks, of a session each, begin one key of one call at second 5: one is told that it is new, the others are
/// answered that one's.
async fn raced(stores: &Stores, tenant: TenantId, since: voxgate::domain::Timestamp) {
    let answers = all_at_once(16, |_| {
        let operations = stores.operations.clone();
        async move {
            let mine = Operation { accepted_at: at(5), ..operation(tenant, "call", "key") };
            match operations.begin(tenant, &mine, since).await.expect("an answer") {
                Begun::New => (true, mine),
                Begun::Existing(existing) => (false, *existing),
            }
        }
    })
    .await;
    assert_eq!(answers.iter().filter(|(new, _)| *new).count(), 1);
    let (_, winner) = answers.iter().find(|(new, _)| *new).expect("one began");
    assert!(answers.iter().all(|(_, operation)| operation == winner));
}

async fn what_became_of_an_operation_is_recorded(stores: &Stores) {
    let tenant = stores.tenant().await;
    let accepted = operation(tenant, "call", "key");
    begin(stores, &accepted).await;
    let dispatched = Operation { state: OperationState::Dispatched, dispatched_at: Some(at(1)), ..accepted.clone() };
    assert!(record(stores, &dispatched).await);
    assert_eq!(get(stores, &accepted).await, Some(dispatched.clone()));
    let call_state = CallState { held: true, ..CallState::default() };
    let succeeded = Operation {
        state: OperationState::Succeeded,
        finished_at: Some(at(2)),
        result: Some(VerbResult { call_state, outcome: Some(Outcome::Hangup), ..VerbResult::default() }),
        ..dispatched
    };
    assert!(record(stores, &succeeded).await);
    assert_eq!(get(stores, &accepted).await, Some(succeeded.clone()));
    assert_eq!(begin(stores, &accepted).await, Some(succeeded), "a replay is answered what became of it");
}

async fn an_unknown_fate_is_resolved_later(stores: &Stores) {
    let tenant = stores.tenant().await;
    let accepted = operation(tenant, "call", "key");
    begin(stores, &accepted).await;
    let unknown = Operation { state: OperationState::Unknown, finished_at: Some(at(1)), ..accepted };
    assert!(record(stores, &unknown).await);
    // A node's words may be anything, even what Postgres cannot keep.
    let failure = Failure { reason: "BUSY".into(), message: "nö \u{0} 📵".into() };
    let failed = Operation { state: OperationState::Failed, failure: Some(failure), ..unknown };
    assert!(record(stores, &failed).await);
    let read = get(stores, &failed).await.expect("the operation");
    assert_eq!(read.state, OperationState::Failed);
    assert_eq!(read.failure.expect("a failure").message, "nö \u{fffd} 📵");
}

async fn a_final_state_stays(stores: &Stores) {
    let tenant = stores.tenant().await;
    for last in OperationState::ALL.iter().filter(|state| state.is_final()) {
        let accepted = operation(tenant, last.as_str(), "key");
        begin(stores, &accepted).await;
        let last = Operation { state: *last, finished_at: Some(at(1)), ..accepted };
        assert!(record(stores, &last).await);
        for state in OperationState::ALL {
            assert!(!record(stores, &Operation { state: *state, ..last.clone() }).await);
        }
        assert_eq!(get(stores, &last).await, Some(last.clone()));
    }
    assert!(!record(stores, &operation(tenant, "call", "never-begun")).await);
}

async fn a_key_is_found_in_its_own_call_while_it_is_remembered(stores: &Stores) {
    let tenant = stores.tenant().await;
    let made = operation(tenant, "call", "key");
    assert!(begin(stores, &made).await.is_none());
    let find = async |tenant, on: &str, key: &str, since| {
        let key = key.parse().expect("a key");
        stores.operations.find(tenant, &call(on), &key, since).await.expect("an answer")
    };
    assert_eq!(find(tenant, "call", "key", at(0)).await, Some(made.clone()));
    assert_eq!(find(tenant, "call", "other", at(0)).await, None);
    assert_eq!(find(tenant, "another-call", "key", at(0)).await, None);
    assert_eq!(find(stores.tenant().await, "call", "key", at(0)).await, None);
    assert_eq!(find(tenant, "call", "key", at(1)).await, None, "forgotten");
}

async fn a_withdrawn_operation_leaves_its_key_free(stores: &Stores) {
    let tenant = stores.tenant().await;
    let made = operation(tenant, "call", "key");
    assert!(begin(stores, &made).await.is_none());
    stores.operations.withdraw(stores.tenant().await, made.id).await.expect("an answer");
    assert!(get(stores, &made).await.is_some(), "another tenant withdraws nothing");
    stores.operations.withdraw(tenant, made.id).await.expect("an answer");
    assert!(get(stores, &made).await.is_none());
    let again = Operation { id: OperationId::new(&Env::system()), ..made };
    assert!(begin(stores, &again).await.is_none());
}
