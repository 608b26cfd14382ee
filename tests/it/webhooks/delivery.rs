//! What becomes of an event whose receiver does not take it at once.

use std::{collections::BTreeSet, time::Duration};

use tonic::Code;
use voxgate::proto::v1::{
    DeleteWebhookEndpointRequest, ListDeadLettersRequest, ListWebhookEndpointsRequest, RedeliverEventRequest,
};

use super::{Calls, dead_letters, each_once, endpoint, leads, on_both_backends, set_enabled};
use crate::harness::{
    client::{faults, granted, refused},
    receiver::{Answer, Receiver},
    world::{World, eventually},
};

on_both_backends!(
    an_endpoint_gets_the_types_that_it_wants_and_no_others,
    an_event_that_is_not_taken_comes_again_with_the_same_id,
    a_redirect_is_a_failure_and_leads_nowhere,
    an_answer_without_end_is_heard_to_its_status,
    a_receiver_that_is_gone_is_disabled_and_its_event_a_dead_letter,
    a_redelivered_event_comes_again_and_its_dead_letter_is_gone,
    what_happens_while_an_endpoint_is_disabled_is_not_posted_later,
    a_deleted_endpoint_takes_its_dead_letters_along,
    faulty_redeliveries_name_their_fields,
);

async fn an_endpoint_gets_the_types_that_it_wants_and_no_others(world: World) {
    let (wanting, everything, other) = (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    endpoint(&world, &wanting.url, &["lead.*"]).await;
    endpoint(&world, &everything.url, &[]).await;
    endpoint(&world, &other.url, &["callback.scheduled"]).await;
    let calls = Calls::start(&world).await;
    calls.happen(5).await;
    let posts = wanting.received(5).await;
    assert!(posts.iter().all(|post| post.json()["type"] == "lead.updated"), "{posts:?}");
    let all = async || wanting.events().is_subset(&everything.events()).then_some(());
    eventually("all of it elsewhere too", all).await;
    assert!(other.posts().is_empty() && each_once(&wanting) && each_once(&everything));
}

async fn an_event_that_is_not_taken_comes_again_with_the_same_id(world: World) {
    let receiver = Receiver::start().await;
    leads(&world, &receiver).await;
    receiver.answers_next([Answer::Status(500)]);
    let calls = Calls::start(&world).await;
    calls.happen(1).await;
    let twice = async || (receiver.posts().len() == 2).then(|| receiver.posts());
    let posts = eventually("the second try", twice).await;
    assert_eq!((posts[0].header("webhook-id"), &posts[0].body), (posts[1].header("webhook-id"), &posts[1].body));
    assert!(posts[0].header("webhook-timestamp") < posts[1].header("webhook-timestamp"));
    assert!(dead_letters(&world).await.is_empty());
}

async fn a_redirect_is_a_failure_and_leads_nowhere(world: World) {
    let inside = Receiver::start().await;
    let receiver = Receiver::answering(Answer::RedirectTo(inside.url.clone())).await;
    leads(&world, &receiver).await;
    let calls = Calls::start(&world).await;
    calls.happen(1).await;
    let twice = async || (receiver.posts().len() >= 2).then_some(());
    eventually("the second try", twice).await;
    assert!(inside.posts().is_empty());
}

async fn an_answer_without_end_is_heard_to_its_status(world: World) {
    let receiver = Receiver::answering(Answer::Endless).await;
    leads(&world, &receiver).await;
    let calls = Calls::start(&world).await;
    calls.happen(3).await;
    receiver.received(3).await;
    // A later event comes, so those before it were settled or are about to be; none of them comes again.
    receiver.answers(Answer::Status(200));
    calls.happen(1).await;
    receiver.received(4).await;
    assert!(each_once(&receiver));
}

async fn a_receiver_that_is_gone_is_disabled_and_its_event_a_dead_letter(world: World) {
    let receiver = Receiver::answering(Answer::Status(410)).await;
    let endpoint = leads(&world, &receiver).await;
    let calls = Calls::start(&world).await;
    calls.happen(1).await;
    let letter = eventually("the dead letter", async || dead_letters(&world).await.pop()).await;
    let post = &receiver.posts()[0];
    let event = letter.event.expect("the event");
    assert_eq!((event.id.as_str(), letter.webhook_endpoint_id), (post.header("webhook-id"), endpoint.id.clone()));
    assert_eq!((event.r#type.as_str(), event.tenant_id), ("lead.updated", world.tenant.clone()));
    assert_eq!((letter.attempts, letter.last_status_code), (1, 410));
    assert!(letter.last_error.contains("410") && letter.first_attempt_at.is_some() && letter.last_attempt_at.is_some());
    let request = ListWebhookEndpointsRequest { tenant_id: Some(world.tenant.clone()), ..Default::default() };
    let listed = granted(world.operator.tenants().list_webhook_endpoints(request).await).webhook_endpoints;
    assert_eq!((listed[0].id.as_str(), listed[0].enabled), (endpoint.id.as_str(), Some(false)));
}

fn redelivery(world: &World, event: &str, endpoint: Option<&str>) -> RedeliverEventRequest {
    RedeliverEventRequest {
        event_id: event.to_owned(),
        webhook_endpoint_id: endpoint.map(str::to_owned),
        tenant_id: Some(world.tenant.clone()),
    }
}

async fn a_redelivered_event_comes_again_and_its_dead_letter_is_gone(world: World) {
    let (gone, taking) = (Receiver::answering(Answer::Status(410)).await, Receiver::start().await);
    let (dead, sound) = (leads(&world, &gone).await, leads(&world, &taking).await);
    let calls = Calls::start(&world).await;
    calls.happen(1).await;
    let id = eventually("the dead letter", async || dead_letters(&world).await.pop()).await.event.expect("one").id;
    taking.received(1).await;
    let mut tenants = world.operator.tenants();
    // The endpoint is disabled: only the other one is asked, and this one not even by name.
    let to = granted(tenants.redeliver_event(redelivery(&world, &id, None)).await).webhook_endpoint_ids;
    assert_eq!(to, std::slice::from_ref(&sound.id));
    let twice = async || (taking.posts().len() == 2).then_some(());
    eventually("the event once more", twice).await;
    let disabled = tenants.redeliver_event(redelivery(&world, &id, Some(&dead.id))).await;
    assert_eq!(faults(disabled), ["webhook_endpoint_id"]);
    assert_eq!(dead_letters(&world).await.len(), 1);
    gone.answers(Answer::Status(200));
    set_enabled(&world, &dead, true).await;
    let to = granted(tenants.redeliver_event(redelivery(&world, &id, Some(&dead.id))).await).webhook_endpoint_ids;
    assert_eq!((to, dead_letters(&world).await.len()), (vec![dead.id], 0));
    let twice = async || (gone.posts().len() == 2).then_some(());
    eventually("the event once more", twice).await;
    assert_eq!(gone.events(), BTreeSet::from([id]));
}

async fn what_happens_while_an_endpoint_is_disabled_is_not_posted_later(world: World) {
    let (receiver, witness) = (Receiver::start().await, Receiver::start().await);
    let endpoint = leads(&world, &receiver).await;
    leads(&world, &witness).await;
    let calls = Calls::start(&world).await;
    set_enabled(&world, &endpoint, false).await;
    calls.happen(3).await;
    // What another endpoint has of it is behind the position that this one will have.
    let missed: BTreeSet<_> = witness.received(3).await.iter().map(|post| post.json()["id"].to_string()).collect();
    set_enabled(&world, &endpoint, true).await;
    calls.happen(2).await;
    let posts = receiver.received(2).await;
    assert!(posts.iter().all(|post| !missed.contains(&post.json()["id"].to_string())));
    assert_eq!(posts.len(), 2);
}

async fn a_deleted_endpoint_takes_its_dead_letters_along(world: World) {
    let receiver = Receiver::answering(Answer::Status(410)).await;
    let endpoint = leads(&world, &receiver).await;
    let calls = Calls::start(&world).await;
    calls.happen(1).await;
    eventually("the dead letter", async || dead_letters(&world).await.pop()).await;
    let deletion = DeleteWebhookEndpointRequest { id: endpoint.id };
    granted(world.operator.tenants().delete_webhook_endpoint(deletion).await);
    assert!(dead_letters(&world).await.is_empty());
    calls.happen(1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(receiver.posts().len(), 1);
}

async fn faulty_redeliveries_name_their_fields(world: World) {
    let receiver = Receiver::start().await;
    let endpoint = leads(&world, &receiver).await;
    let calls = Calls::start(&world).await;
    calls.happen(1).await;
    let id = receiver.received(1).await[0].header("webhook-id").to_owned();
    let nobody = voxgate::domain::Env::system().uuid().to_string();
    let mut tenants = world.operator.tenants();
    let both =
        RedeliverEventRequest { event_id: "x".into(), webhook_endpoint_id: Some("y".into()), ..Default::default() };
    assert_eq!(faults(tenants.redeliver_event(both).await), ["event_id", "webhook_endpoint_id"]);
    let unknown = redelivery(&world, &format!("evt_{nobody}"), None);
    assert_eq!(faults(tenants.redeliver_event(unknown).await), ["event_id"]);
    let unknown = redelivery(&world, &id, Some(&nobody));
    assert_eq!(faults(tenants.redeliver_event(unknown).await), ["webhook_endpoint_id"]);
    let list = ListDeadLettersRequest {
        tenant_id: Some(world.tenant.clone()),
        webhook_endpoint_id: nobody.clone(),
        ..Default::default()
    };
    assert_eq!(faults(tenants.list_dead_letters(list).await), ["webhook_endpoint_id"]);
    let elsewhere = RedeliverEventRequest { tenant_id: Some(nobody.clone()), ..redelivery(&world, &id, None) };
    refused(tenants.redeliver_event(elsewhere).await, Code::NotFound, "TENANT_NOT_FOUND");
    // Another tenant's event and endpoint do not exist.
    let neighbour = world.neighbour().await;
    assert_eq!(faults(tenants.redeliver_event(redelivery(&neighbour, &id, None)).await), ["event_id"]);
    let theirs = leads(&neighbour, &receiver).await;
    let crossed = redelivery(&world, &id, Some(&theirs.id));
    assert_eq!(faults(tenants.redeliver_event(crossed).await), ["webhook_endpoint_id"]);
    assert_ne!(theirs.id, endpoint.id);
    assert_eq!(receiver.posts().len(), 1);
}
