//! What every `VoiceAgentStore` promises.

use std::{collections::BTreeMap, sync::Arc};

use secrecy::ExposeSecret as _;
use voxgate::{
    agents::{Changed, CreateRequest, Created, Deleted, Filter, rewrap},
    domain::{
        Env, Error,
        behavior::{BehaviorDraft, Controls, Question, QuestionType, Tone, Tool, VoiceDraft},
        error::Resource,
        hash::Sha256,
        ids::{TenantId, VoiceAgentId},
        keyring::{KeyRing, Rewrapped},
        page::PageRequest,
        session::Outcome,
        voice_agent::{
            AudioEncoding, AudioFormatDraft, AuthToken, Draft, Spec, Status, Subprotocol, TokenLifetime, VoiceAgent,
            WsDisconnectAction,
        },
    },
};

use super::{Stores, agent, all_at_once, at, draft, on_every_backend, ring, session};

on_every_backend![
    an_agent_reads_back_as_it_was_written,
    every_change_of_every_field_reads_back,
    another_tenants_agent_does_not_exist,
    an_agent_of_an_unknown_tenant_is_refused,
    a_request_that_comes_twice_makes_one_agent,
    a_replayed_request_answers_the_agent_as_it_is_now,
    a_request_id_is_not_reused_for_something_else,
    a_request_is_forgotten_when_its_time_is_over,
    a_request_whose_agent_was_deleted_makes_no_other,
    a_request_raced_from_sixteen_tasks_makes_one_agent,
    request_ids_of_two_tenants_do_not_meet,
    an_update_of_another_revision_is_stale,
    of_thirty_two_writers_on_one_revision_one_wins,
    a_list_shows_the_newest_first,
    a_list_is_stable_while_rows_come_and_go,
    a_list_of_one_moment_is_ordered_by_id,
    a_list_filters_by_status_and_external_id,
    a_name_prefix_is_compared_byte_for_byte,
    deleting_needs_the_current_revision,
    an_agent_with_active_sessions_is_not_deleted,
    deleting_clears_the_tenants_default,
    the_default_is_one_of_the_tenants_own_agents,
    the_default_of_an_unknown_tenant_is_not_found,
    a_secret_in_the_clear_is_not_kept,
    each_change_leaves_a_revision_that_reads_back,
    of_two_hundred_racers_one_makes_the_default,
    every_sealed_secret_is_rewrapped_and_opens_as_before,
];

async fn list(stores: &Stores, tenant: TenantId, filter: &Filter) -> Vec<String> {
    let page = stores.agents.list(tenant, filter, PageRequest { size: 100, after: None }).await.expect("a list");
    assert_eq!(usize::try_from(page.total_size), Ok(page.items.len()));
    page.items.into_iter().map(|agent| agent.spec.name).collect()
}

fn request(text: &str) -> CreateRequest {
    CreateRequest { id: Env::system().uuid(), digest: Sha256::of(text), remembered_since: at(0) }
}

fn changed(agent: &VoiceAgent, name: &str) -> VoiceAgent {
    let mut agent = agent.clone();
    agent.spec.name = name.into();
    agent.revision += 1;
    agent
}

fn same(left: &VoiceAgent, right: &VoiceAgent) -> bool {
    let secret = |agent: &VoiceAgent| {
        let token = agent.spec.auth_token.as_ref();
        token.map(|token| token.reveal(&ring(), agent.tenant, agent.id).expect("opened").expose_secret().to_owned())
    };
    // Debug shows everything but the secret.
    format!("{left:?}") == format!("{right:?}") && secret(left) == secret(right)
}

fn every_part_of_a_behavior() -> BehaviorDraft {
    // Keys in another order than a database would choose, and numbers with all their digits.
    let schema = serde_json::json!({"type": "object", "properties": {"z": {"maximum": 0.1 + 0.2}, "a": {"const": 7}}});
    BehaviorDraft {
        instructions: Some("Sprich 値 🎧 \" ' \\ \r\n\t{}".into()),
        language: Some("zh-Hant-TW".into()),
        purpose: Some("%_".into()),
        voice: VoiceDraft { voice_id: Some("nova".into()), language_code: Some("de".into()) },
        tools: vec![Tool { name: "t".into(), description: "d".into(), parameters: schema.as_object().cloned() }],
        max_turns: Some(10_000),
        questions: vec![Question {
            key: "k".into(),
            ask: "?".into(),
            kind: QuestionType::Number,
            options: vec!["b".into(), "a".into()],
            min: Some(-1e300),
            max: Some(0.1 + 0.2),
        }],
        controls: Controls { tone: Some(Tone::Neutral), allow_interruptions: Some(false), ..Controls::default() },
        output_schema: BTreeMap::from([("b".into(), "enum:y,x".into()), ("a".into(), "text".into())]),
        output_schema_strict: schema.as_object().cloned(),
        extraction_model: Some("m".into()),
        initial_message: Some("i".into()),
    }
}

fn everything_set(tenant: TenantId) -> VoiceAgent {
    let draft = Draft {
        audio_format: AudioFormatDraft {
            encoding: Some(AudioEncoding::Pcma),
            channels: Some(2),
            frame_ms: Some(60),
            ..AudioFormatDraft::default()
        },
        external_agent_id: Some("extern/1".into()),
        transfer_destination: Some("+4930123456".into()),
        max_concurrent: Some(10_000),
        reserved_inbound: Some(7),
        token_lifetime: Some(TokenLifetime::WsSession),
        subprotocol: Some(Subprotocol::AudioJambonzOrg),
        ws_disconnect_action: Some(WsDisconnectAction::TransferToQueue),
        metadata: BTreeMap::from([("schlüssel \"'\\".into(), "値 🎧 \n".into())]),
        behavior: Some(every_part_of_a_behavior()),
        ..draft("Zoë 🎙 ' \" \\ % _ ; DROP TABLE")
    };
    let mut agent = VoiceAgent {
        spec: Spec::parse(draft).expect("a valid agent"),
        status: Status::Paused,
        ..agent(tenant, "Ada", at(0))
    };
    agent.spec.auth_token = Some(sealed(&agent, "s3cret"));
    agent
}

fn sealed(agent: &VoiceAgent, secret: &str) -> AuthToken {
    let clear = AuthToken::Clear(secret.to_owned().into());
    clear.sealed(&ring(), &Env::system(), (agent.tenant, agent.id), agent.revision).expect("sealed")
}

async fn a_secret_in_the_clear_is_not_kept(stores: &Stores) {
    let tenant = stores.tenant().await;
    let mut bare = agent(tenant, "bare", at(0));
    bare.spec.auth_token = Some(AuthToken::Clear("s3cret".to_owned().into()));
    assert!(matches!(stores.agents.create(tenant, &bare, None).await, Err(Error::Internal(_))));
    assert!(stores.agents.get(tenant, bare.id).await.expect("an answer").is_none());
}

async fn each_change_leaves_a_revision_that_reads_back(stores: &Stores) {
    let (tenant, other) = (stores.tenant().await, stores.tenant().await);
    let first = everything_set(tenant);
    stores.agents.create(tenant, &first, None).await.expect("created");
    let mut second = changed(&first, "second");
    second.spec.auth_token = None;
    (second.updated_at, second.updated_by) = (at(5), "mesh:spiffe://example/flow".into());
    let mut third = changed(&second, "third");
    third.status = Status::Archived;
    for next in [&second, &third] {
        assert_eq!(stores.agents.update(tenant, next).await.expect("an answer"), Changed::Done);
    }
    assert_eq!(stores.agents.update(tenant, &second).await.expect("an answer"), Changed::Stale);
    let found = stores.agents.revisions(tenant, first.id, None, 10).await.expect("a list");
    assert_eq!(found.len(), 3, "a stale change leaves none");
    for (read, written) in found.iter().zip([&third, &second, &first]) {
        assert!(same(read, written), "{read:?}\n{written:?}");
    }
    let page = stores.agents.revisions(tenant, first.id, Some(3), 1).await.expect("a list");
    assert!(page.len() == 1 && same(&page[0], &second), "{page:?}");
    let at_first = stores.agents.at(tenant, first.id, 1).await.expect("an answer").expect("kept");
    assert!(same(&at_first, &first));
    for revision in [0, 4, -1, i64::MAX] {
        assert!(stores.agents.at(tenant, first.id, revision).await.expect("an answer").is_none(), "{revision}");
    }
    assert!(stores.agents.revisions(other, first.id, None, 10).await.expect("a list").is_empty());
    assert_eq!(stores.agents.delete(tenant, first.id, 3).await.expect("an answer"), Deleted::Done);
    assert!(stores.agents.revisions(tenant, first.id, None, 10).await.expect("a list").is_empty());
}

async fn of_two_hundred_racers_one_makes_the_default(stores: &Stores) {
    let tenant = stores.tenant().await;
    let answers = all_at_once(200, |_| {
        let agents = stores.agents.clone();
        async move { agents.create_default(tenant, &agent(tenant, "Default", at(3))).await.expect("an answer") }
    })
    .await;
    let default = stores.agents.fallback(tenant).await.expect("an answer").voice_agent.expect("pinned");
    assert!(answers.iter().all(|answer| *answer == default));
    assert_eq!(list(stores, tenant, &Filter::default()).await, ["Default"]);
    let nobody = TenantId::new(&Env::system());
    let asked = stores.agents.create_default(nobody, &agent(nobody, "Default", at(3))).await;
    assert!(matches!(asked, Err(Error::NotFound { resource: Resource::Tenant, .. })), "{asked:?}");
}

async fn every_sealed_secret_is_rewrapped_and_opens_as_before(stores: &Stores) {
    let env = Env::system();
    let newer = format!("newer:{},{}", "A".repeat(43) + "=", crate::harness::server::KEY_RING);
    let newer = KeyRing::parse(&newer.into()).expect("a ring");
    let tenants = [stores.tenant().await, stores.tenant().await];
    let mut agents = Vec::new();
    for index in 0..150 {
        let first = everything_set(tenants[index % 2]);
        stores.agents.create(first.tenant, &first, None).await.expect("created");
        let second = changed(&first, "second");
        stores.agents.update(second.tenant, &second).await.expect("updated");
        agents.push(second);
    }
    let done = rewrap(stores.agents.as_ref(), &newer, &env).await.expect("rewrapped");
    assert_eq!(done, Rewrapped { rewrapped: 300, unopened: 0, done: true });
    assert_eq!(rewrap(stores.agents.as_ref(), &newer, &env).await.expect("nothing left").rewrapped, 0);
    for agent in agents {
        let now = stores.agents.get(agent.tenant, agent.id).await.expect("an answer").expect("the agent");
        let then = stores.agents.at(agent.tenant, agent.id, 1).await.expect("an answer").expect("the revision");
        for token in [now.spec.auth_token, then.spec.auth_token] {
            let token = token.expect("a secret");
            assert!(token.reveal(&ring(), agent.tenant, agent.id).is_err(), "it is under the newer key");
            let opened = token.reveal(&newer, agent.tenant, agent.id).expect("opened");
            assert_eq!(opened.expose_secret(), "s3cret");
        }
        assert_eq!(now.revision, 2, "rewrapping is no change");
    }
}

async fn an_agent_reads_back_as_it_was_written(stores: &Stores) {
    let tenant = stores.tenant().await;
    for written in [everything_set(tenant), agent(tenant, "plain", at(1))] {
        assert!(matches!(stores.agents.create(tenant, &written, None).await, Ok(Created::New)));
        let read = stores.agents.get(tenant, written.id).await.expect("an answer").expect("the agent");
        assert!(same(&read, &written), "{read:?}\n{written:?}");
    }
}

async fn every_change_of_every_field_reads_back(stores: &Stores) {
    let tenant = stores.tenant().await;
    let plain = stores.agent(tenant).await;
    let mut full = VoiceAgent { id: plain.id, revision: 2, updated_at: at(5), ..everything_set(tenant) };
    full.spec.auth_token = Some(sealed(&full, "s3cret"));
    // There and back: a field that is cleared must become absent.
    let plain = VoiceAgent { revision: 3, updated_at: at(6), ..plain };
    for next in [full, plain] {
        assert_eq!(stores.agents.update(tenant, &next).await.expect("an answer"), Changed::Done);
        let read = stores.agents.get(tenant, next.id).await.expect("an answer").expect("the agent");
        assert!(same(&read, &next), "{read:?}\n{next:?}");
    }
}

async fn another_tenants_agent_does_not_exist(stores: &Stores) {
    let (owner, other) = (stores.tenant().await, stores.tenant().await);
    let agent = stores.agent(owner).await;
    assert!(stores.agents.get(other, agent.id).await.expect("an answer").is_none());
    assert!(list(stores, other, &Filter::default()).await.is_empty());
    assert_eq!(stores.agents.update(other, &changed(&agent, "stolen")).await.expect("an answer"), Changed::Stale);
    assert_eq!(stores.agents.delete(other, agent.id, 1).await.expect("an answer"), Deleted::Stale);
    let refused = stores.agents.set_default(other, Some(agent.id), at(1)).await;
    assert!(matches!(refused, Err(Error::NotFound { resource: Resource::VoiceAgent, .. })), "{refused:?}");
    let read = stores.agents.get(owner, agent.id).await.expect("an answer").expect("untouched");
    assert!(same(&read, &agent));
}

async fn an_agent_of_an_unknown_tenant_is_refused(stores: &Stores) {
    let nobody = TenantId::new(&Env::system());
    for request in [None, Some(request("a"))] {
        let refused = stores.agents.create(nobody, &agent(nobody, "Ada", at(0)), request).await;
        assert!(matches!(refused, Err(Error::NotFound { resource: Resource::Tenant, .. })), "{refused:?}");
    }
}

async fn a_request_that_comes_twice_makes_one_agent(stores: &Stores) {
    let tenant = stores.tenant().await;
    let (first, second, request) = (agent(tenant, "first", at(0)), agent(tenant, "second", at(1)), request("body"));
    assert!(matches!(stores.agents.create(tenant, &first, Some(request)).await, Ok(Created::New)));
    let Ok(Created::Replayed(replayed)) = stores.agents.create(tenant, &second, Some(request)).await else {
        panic!("the first agent was expected");
    };
    assert!(same(&replayed, &first));
    assert_eq!(list(stores, tenant, &Filter::default()).await, ["first"]);
}

async fn a_replayed_request_answers_the_agent_as_it_is_now(stores: &Stores) {
    let tenant = stores.tenant().await;
    let (first, request) = (agent(tenant, "before", at(0)), request("body"));
    stores.agents.create(tenant, &first, Some(request)).await.expect("new");
    stores.agents.update(tenant, &changed(&first, "after")).await.expect("changed");
    let Ok(Created::Replayed(replayed)) = stores.agents.create(tenant, &first, Some(request)).await else {
        panic!("the first agent was expected");
    };
    assert_eq!((replayed.spec.name.as_str(), replayed.revision), ("after", 2));
}

async fn a_request_id_is_not_reused_for_something_else(stores: &Stores) {
    let tenant = stores.tenant().await;
    let first = request("body");
    stores.agents.create(tenant, &agent(tenant, "first", at(0)), Some(first)).await.expect("new");
    let other = CreateRequest { digest: Sha256::of("another body"), ..first };
    let refused = stores.agents.create(tenant, &agent(tenant, "second", at(1)), Some(other)).await;
    assert!(matches!(refused, Ok(Created::RequestIdReused)), "{refused:?}");
    assert_eq!(list(stores, tenant, &Filter::default()).await, ["first"]);
}

async fn a_request_is_forgotten_when_its_time_is_over(stores: &Stores) {
    let tenant = stores.tenant().await;
    let first = request("body");
    stores.agents.create(tenant, &agent(tenant, "first", at(10)), Some(first)).await.expect("new");
    let at_the_limit = CreateRequest { remembered_since: at(10), ..first };
    let again = stores.agents.create(tenant, &agent(tenant, "second", at(20)), Some(at_the_limit)).await;
    assert!(matches!(again, Ok(Created::Replayed(_))), "{again:?}");
    let later = CreateRequest { remembered_since: at(11), ..first };
    let again = stores.agents.create(tenant, &agent(tenant, "third", at(30)), Some(later)).await;
    assert!(matches!(again, Ok(Created::New)), "{again:?}");
    assert_eq!(list(stores, tenant, &Filter::default()).await, ["third", "first"]);
}

async fn a_request_whose_agent_was_deleted_makes_no_other(stores: &Stores) {
    let tenant = stores.tenant().await;
    let (first, request) = (agent(tenant, "first", at(0)), request("body"));
    stores.agents.create(tenant, &first, Some(request)).await.expect("new");
    assert_eq!(stores.agents.delete(tenant, first.id, 1).await.expect("an answer"), Deleted::Done);
    let retry = stores.agents.create(tenant, &agent(tenant, "second", at(1)), Some(request)).await;
    assert!(matches!(retry, Err(Error::NotFound { resource: Resource::VoiceAgent, .. })), "{retry:?}");
    assert!(list(stores, tenant, &Filter::default()).await.is_empty());
}

async fn a_request_raced_from_sixteen_tasks_makes_one_agent(stores: &Stores) {
    let tenant = stores.tenant().await;
    let request = request("body");
    let answers = all_at_once(16, |task| {
        let agents = stores.agents.clone();
        async move {
            let mine = agent(tenant, &format!("of task {task}"), at(0));
            match agents.create(tenant, &mine, Some(request)).await.expect("an answer") {
                Created::New => (true, mine.id),
                Created::Replayed(agent) => (false, agent.id),
                Created::RequestIdReused => panic!("it was the same request"),
            }
        }
    })
    .await;
    let winner = answers.iter().find(|(new, _)| *new).expect("one made it").1;
    assert_eq!(answers.iter().filter(|(new, _)| *new).count(), 1);
    assert!(answers.iter().all(|(_, id)| *id == winner));
    assert_eq!(list(stores, tenant, &Filter::default()).await.len(), 1);
}

async fn request_ids_of_two_tenants_do_not_meet(stores: &Stores) {
    let request = request("body");
    for _ in 0..2 {
        let tenant = stores.tenant().await;
        let made = stores.agents.create(tenant, &agent(tenant, "Ada", at(0)), Some(request)).await;
        assert!(matches!(made, Ok(Created::New)), "{made:?}");
    }
}

async fn an_update_of_another_revision_is_stale(stores: &Stores) {
    let tenant = stores.tenant().await;
    let first = stores.agent(tenant).await;
    let second = changed(&first, "second");
    assert_eq!(stores.agents.update(tenant, &second).await.expect("an answer"), Changed::Done);
    assert_eq!(stores.agents.update(tenant, &changed(&first, "late")).await.expect("an answer"), Changed::Stale);
    let gone = VoiceAgent { id: VoiceAgentId::new(&Env::system()), ..second };
    assert_eq!(stores.agents.update(tenant, &gone).await.expect("an answer"), Changed::Stale);
    assert_eq!(list(stores, tenant, &Filter::default()).await, ["second"]);
}

async fn of_thirty_two_writers_on_one_revision_one_wins(stores: &Stores) {
    let tenant = stores.tenant().await;
    let first = Arc::new(stores.agent(tenant).await);
    let answers = all_at_once(32, |task| {
        let (agents, first) = (stores.agents.clone(), first.clone());
        async move { agents.update(tenant, &changed(&first, &format!("writer {task}"))).await.expect("an answer") }
    })
    .await;
    let winners: Vec<_> = (0..32).filter(|task| answers[*task] == Changed::Done).collect();
    assert_eq!(winners.len(), 1);
    let read = stores.agents.get(tenant, first.id).await.expect("an answer").expect("the agent");
    assert_eq!((read.spec.name, read.revision), (format!("writer {}", winners[0]), 2));
}

async fn pages(stores: &Stores, tenant: TenantId, between: impl AsyncFn(usize)) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    for page in 0.. {
        let request = PageRequest { size: 2, after };
        let found = stores.agents.list(tenant, &Filter::default(), request).await.expect("a page");
        assert!(found.items.len() <= 2);
        names.extend(found.items.into_iter().map(|agent| agent.spec.name));
        let Some(next) = found.next else { break };
        after = Some(next);
        between(page).await;
    }
    names
}

async fn a_list_shows_the_newest_first(stores: &Stores) {
    let tenant = stores.tenant().await;
    for second in [2, 0, 4, 1, 3] {
        let agent = agent(tenant, &second.to_string(), at(second));
        stores.agents.create(tenant, &agent, None).await.expect("new");
    }
    assert_eq!(pages(stores, tenant, async |_| ()).await, ["4", "3", "2", "1", "0"]);
    let first = stores.agents.list(tenant, &Filter::default(), PageRequest { size: 2, after: None }).await;
    assert_eq!(first.expect("a page").total_size, 5);
    // A page that is exactly full is the last one.
    let all = stores.agents.list(tenant, &Filter::default(), PageRequest { size: 5, after: None }).await;
    assert_eq!(all.expect("a page").next, None);
}

async fn a_list_is_stable_while_rows_come_and_go(stores: &Stores) {
    let tenant = stores.tenant().await;
    let mut made = Vec::new();
    for second in 0..6 {
        let agent = agent(tenant, &second.to_string(), at(second));
        stores.agents.create(tenant, &agent, None).await.expect("new");
        made.push(agent);
    }
    let seen = pages(stores, tenant, async |page| {
        let newer = agent(tenant, "newer", at(100));
        stores.agents.create(tenant, &newer, None).await.expect("new");
        if page == 0 {
            // The last row of the page just seen, where the cursor stands, and one that is yet to come.
            for gone in [&made[4], &made[2]] {
                assert_eq!(stores.agents.delete(tenant, gone.id, 1).await.expect("an answer"), Deleted::Done);
            }
        }
    })
    .await;
    assert_eq!(seen, ["5", "4", "3", "1", "0"]);
}

async fn a_list_of_one_moment_is_ordered_by_id(stores: &Stores) {
    let tenant = stores.tenant().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let agent = agent(tenant, "Ada", at(0));
        let agent = VoiceAgent { spec: Spec::parse(draft(&agent.id.to_string())).expect("valid"), ..agent };
        stores.agents.create(tenant, &agent, None).await.expect("new");
        ids.push(agent.id.to_string());
    }
    ids.sort_by(|left, right| right.cmp(left));
    assert_eq!(pages(stores, tenant, async |_| ()).await, ids);
}

async fn a_list_filters_by_status_and_external_id(stores: &Stores) {
    let tenant = stores.tenant().await;
    for (second, (name, status, external)) in
        [("a", Status::Active, Some("x")), ("b", Status::Paused, Some("x")), ("c", Status::Archived, None)]
            .into_iter()
            .enumerate()
    {
        let mut agent = agent(tenant, name, at(second as u64));
        agent.status = status;
        agent.spec.external_agent_id = external.map(ToOwned::to_owned);
        stores.agents.create(tenant, &agent, None).await.expect("new");
    }
    let status = |status| Filter { status: Some(status), ..Filter::default() };
    let external = |id: &str| Filter { external_agent_id: Some(id.into()), ..Filter::default() };
    assert_eq!(list(stores, tenant, &status(Status::Archived)).await, ["c"]);
    assert_eq!(list(stores, tenant, &external("x")).await, ["b", "a"]);
    assert_eq!(list(stores, tenant, &external("X")).await, Vec::<String>::new());
    let both = Filter { status: Some(Status::Paused), ..external("x") };
    assert_eq!(list(stores, tenant, &both).await, ["b"]);
}

async fn a_name_prefix_is_compared_byte_for_byte(stores: &Stores) {
    let tenant = stores.tenant().await;
    for (second, name) in ["Ada", "ada", "A%d", "A_da", "Ädam", "A\u{308}dam", "日本語", "👩‍🚀 crew"].iter().enumerate()
    {
        let agent = agent(tenant, name, at(second as u64));
        stores.agents.create(tenant, &agent, None).await.expect("new");
    }
    for (prefix, expected) in [
        ("Ad", vec!["Ada"]),
        ("a", vec!["ada"]),
        ("A%", vec!["A%d"]),
        ("A_", vec!["A_da"]),
        ("Ä", vec!["Ädam"]),
        ("A\u{308}", vec!["A\u{308}dam"]),
        ("日本", vec!["日本語"]),
        ("👩", vec!["👩‍🚀 crew"]),
        ("Ada!", vec![]),
        ("Ada\0", vec![]),
        ("\0", vec![]),
        ("' OR 1=1 --", vec![]),
        ("", vec!["👩‍🚀 crew", "日本語", "A\u{308}dam", "Ädam", "A_da", "A%d", "ada", "Ada"]),
    ] {
        let filter = Filter { name_prefix: Some(prefix.into()), ..Filter::default() };
        assert_eq!(list(stores, tenant, &filter).await, expected, "{prefix:?}");
    }
}

async fn deleting_needs_the_current_revision(stores: &Stores) {
    let tenant = stores.tenant().await;
    let agent = stores.agent(tenant).await;
    stores.agents.update(tenant, &changed(&agent, "second")).await.expect("changed");
    assert_eq!(stores.agents.delete(tenant, agent.id, 1).await.expect("an answer"), Deleted::Stale);
    assert_eq!(stores.agents.delete(tenant, agent.id, 2).await.expect("an answer"), Deleted::Done);
    assert_eq!(stores.agents.delete(tenant, agent.id, 2).await.expect("an answer"), Deleted::Stale);
    assert!(stores.agents.get(tenant, agent.id).await.expect("an answer").is_none());
}

async fn an_agent_with_active_sessions_is_not_deleted(stores: &Stores) {
    let tenant = stores.tenant().await;
    let agent = stores.agent(tenant).await;
    let mut open = Vec::new();
    for on in ["one", "two"] {
        let session = session(tenant, agent.id, on);
        stores.sessions.open(tenant, &session).await.expect("opened");
        open.push(session.id);
    }
    let deleted = stores.agents.delete(tenant, agent.id, 1).await.expect("an answer");
    assert_eq!(deleted, Deleted::InUse { active_sessions: 2 });
    assert!(stores.agents.get(tenant, agent.id).await.expect("an answer").is_some());
    for id in &open {
        stores.sessions.end(tenant, *id, Outcome::AgentDeleted, at(1)).await.expect("ended");
    }
    assert_eq!(stores.agents.delete(tenant, agent.id, 1).await.expect("an answer"), Deleted::Done);
    assert!(stores.sessions.get(tenant, open[0]).await.expect("an answer").is_some(), "history outlives the agent");
}

async fn deleting_clears_the_tenants_default(stores: &Stores) {
    let tenant = stores.tenant().await;
    let (pinned, other) = (stores.agent(tenant).await, stores.agent(tenant).await);
    stores.agents.set_default(tenant, Some(pinned.id), at(1)).await.expect("pinned");
    stores.agents.delete(tenant, other.id, 1).await.expect("deleted");
    assert_eq!(stores.agents.fallback(tenant).await.expect("an answer").voice_agent, Some(pinned.id));
    stores.agents.delete(tenant, pinned.id, 1).await.expect("deleted");
    assert_eq!(stores.agents.fallback(tenant).await.expect("an answer").voice_agent, None);
}

async fn the_default_is_one_of_the_tenants_own_agents(stores: &Stores) {
    let tenant = stores.tenant().await;
    assert_eq!(stores.agents.fallback(tenant).await.expect("an answer").voice_agent, None);
    let agent = stores.agent(tenant).await;
    stores.agents.set_default(tenant, Some(agent.id), at(9)).await.expect("pinned");
    assert_eq!(stores.agents.fallback(tenant).await.expect("an answer").voice_agent, Some(agent.id));
    let read = stores.tenants.get(tenant).await.expect("an answer").expect("the tenant");
    assert_eq!((read.default_voice_agent_id, read.updated_at), (Some(agent.id), at(9)));
    let unknown = stores.agents.set_default(tenant, Some(VoiceAgentId::new(&Env::system())), at(10)).await;
    assert!(matches!(unknown, Err(Error::NotFound { resource: Resource::VoiceAgent, .. })), "{unknown:?}");
    assert_eq!(stores.agents.fallback(tenant).await.expect("an answer").voice_agent, Some(agent.id));
    let mut archived = changed(&stores.agent(tenant).await, "archived");
    archived.status = Status::Archived;
    stores.agents.update(tenant, &archived).await.expect("archived");
    let refused = stores.agents.set_default(tenant, Some(archived.id), at(10)).await;
    assert!(matches!(refused, Err(Error::VoiceAgentArchived { .. })), "{refused:?}");
    stores.agents.set_default(tenant, None, at(11)).await.expect("cleared");
    assert_eq!(stores.agents.fallback(tenant).await.expect("an answer").voice_agent, None);
}

async fn the_default_of_an_unknown_tenant_is_not_found(stores: &Stores) {
    let nobody = TenantId::new(&Env::system());
    let asked = stores.agents.fallback(nobody).await;
    assert!(matches!(asked, Err(Error::NotFound { resource: Resource::Tenant, .. })), "{asked:?}");
}
