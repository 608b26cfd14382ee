//! What every `SessionStore` promises of what is posted of a session.

use std::sync::Arc;

use voxgate::{
    domain::{
        Env,
        ids::SessionId,
        results::ResultWarning,
        session::{Outcome, Session},
        transcript::{Completion, Posted, TURNS_MAX, TranscriptRole, Turn},
    },
    sessions::Opened,
};

use super::{Stores, all_at_once, at, on_every_backend};

on_every_backend![
    what_is_posted_reads_back_as_it_was_written,
    posting_again_replaces_and_is_told_of_the_session,
    of_sixteen_who_post_at_once_one_is_the_last,
    posting_beside_an_end_loses_neither,
    another_tenants_session_takes_nothing_and_tells_nothing,
];

fn posted(text: &str) -> Posted {
    let turn = Turn { role: TranscriptRole::Caller, text: text.to_owned(), spoken_at: None };
    Posted { completion: Completion { transcript: vec![turn], results: None }, warnings: Vec::new() }
}

async fn post(stores: &Stores, session: &Session, posted: &Posted) -> Option<Session> {
    stores.sessions.post(session.tenant, session.id, posted).await.expect("an answer")
}

async fn read(stores: &Stores, session: &Session) -> Option<Posted> {
    stores.sessions.posted(session.tenant, session.id).await.expect("an answer")
}

async fn what_is_posted_reads_back_as_it_was_written(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    assert_eq!(read(stores, &session).await, None);
    let turn = |n: usize| Turn {
        role: TranscriptRole::ALL[n % TranscriptRole::ALL.len()],
        text: format!("naïve \"{n}\" 🎧\n\u{202e}\\"),
        spoken_at: n.is_multiple_of(2).then(|| at(u64::try_from(n).expect("small"))),
    };
    let results = serde_json::json!({"ключ": [1, 2.5, null, {"a": "b"}], "": true});
    let full = Posted {
        completion: Completion {
            transcript: (0..TURNS_MAX).map(turn).collect(),
            results: results.as_object().cloned(),
        },
        warnings: vec![ResultWarning { path: "/ключ".into(), description: "must be a text".into() }],
    };
    assert!(post(stores, &session, &full).await.is_some());
    assert_eq!(read(stores, &session).await, Some(full));
    let mut empty = posted("");
    empty.completion.results = Some(serde_json::Map::new());
    assert!(post(stores, &session, &empty).await.is_some());
    assert_eq!(read(stores, &session).await, Some(empty), "no results and empty ones are two things");
}

async fn posting_again_replaces_and_is_told_of_the_session(stores: &Stores) {
    let opened = stores.session(stores.tenant().await, "call").await;
    let marked = post(stores, &opened, &posted("first")).await.expect("there");
    assert!(marked.record.posted && marked.is_active());
    assert_eq!(marked.version, opened.version + 1);
    assert_eq!(stores.sessions.get(opened.tenant, opened.id).await.expect("an answer"), Some(marked));
    let ended = stores.sessions.end(opened.tenant, opened.id, Outcome::Hangup, at(9)).await.expect("an answer");
    let ended = ended.expect("it was active");
    assert!(ended.record.posted);
    assert_eq!(post(stores, &opened, &posted("second")).await, Some(ended), "the session stays as it is");
    assert_eq!(read(stores, &opened).await, Some(posted("second")));
}

async fn of_sixteen_who_post_at_once_one_is_the_last(stores: &Stores) {
    let session = Arc::new(stores.session(stores.tenant().await, "call").await);
    let answers = all_at_once(16, |task| {
        let (sessions, session, posted) = (stores.sessions.clone(), session.clone(), posted(&task.to_string()));
        async move { sessions.post(session.tenant, session.id, &posted).await.expect("an answer").is_some() }
    })
    .await;
    assert!(answers.into_iter().all(|there| there));
    let last = read(stores, &session).await.expect("posted");
    assert!((0..16).any(|task| last == posted(&task.to_string())), "{last:?}");
    let now = stores.sessions.get(session.tenant, session.id).await.expect("an answer").expect("the session");
    assert_eq!(now.version, session.version + 1, "it was marked once");
}

async fn posting_beside_an_end_loses_neither(stores: &Stores) {
    let tenant = stores.tenant().await;
    for round in 0..8 {
        let session = stores.session(tenant, &format!("call-{round}")).await;
        let posted = posted("text");
        let (written, ended) = tokio::join!(
            stores.sessions.post(tenant, session.id, &posted),
            stores.sessions.end(tenant, session.id, Outcome::Hangup, at(3)),
        );
        assert!(written.expect("an answer").is_some() && ended.expect("an answer").is_some());
        let now = stores.sessions.get(tenant, session.id).await.expect("an answer").expect("the session");
        assert!(now.record.posted && !now.is_active());
        assert_eq!(now.version, session.version + 2);
    }
}

async fn another_tenants_session_takes_nothing_and_tells_nothing(stores: &Stores) {
    let (owner, other) = (stores.tenant().await, stores.tenant().await);
    let session = stores.session(owner, "call").await;
    let nobodys = SessionId::new(&Env::system());
    for (tenant, id) in [(other, session.id), (owner, nobodys)] {
        assert_eq!(stores.sessions.post(tenant, id, &posted("text")).await.expect("an answer"), None);
        assert_eq!(stores.sessions.posted(tenant, id).await.expect("an answer"), None);
    }
    assert_eq!(read(stores, &session).await, None);
    post(stores, &session, &posted("text")).await.expect("there");
    assert_eq!(stores.sessions.posted(other, session.id).await.expect("an answer"), None);
    // Another session of the same id is another tenant's own.
    let agent = stores.agent(other).await.id;
    let theirs = Session { id: session.id, ..super::session(other, agent, "call") };
    assert!(matches!(stores.sessions.open(other, &theirs).await, Ok(Opened::New)));
    assert_eq!(read(stores, &theirs).await, None);
}
