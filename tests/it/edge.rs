//! What the edge withstands: clients that say nothing, listen for ever, are wrong about everything or store much.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use tokio_stream::StreamExt as _;
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};
use tonic_types::StatusExt as _;
use voxgate::proto::v1::{CreateVoiceAgentRequest, ListVoiceAgentsRequest, VoiceAgent};

use crate::harness::{
    client::{Caller, Explained as _, granted, refused},
    postgres,
    server::{Backend, TestServer},
    world::{World, eventually, minimal_agent},
};

const PATIENCE: Duration = Duration::from_secs(6);

fn everything() -> ListVoiceAgentsRequest {
    ListVoiceAgentsRequest { page_size: 100, ..ListVoiceAgentsRequest::default() }
}

/// Silent connections count, so they must not stay; those that have said hello may be idle for as long as they like.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_lock_nobody_out_for_longer_than_the_handshake_may_take() {
    let server = TestServer::embedded_with("[listen]\nmax_connections = 4\nhandshake_timeout_ms = 1500");
    let world = World::on(&server.addr, &server.admin_key).await;
    let addr = server.addr.strip_prefix("http://").expect("http");
    // Those beyond the limit are closed at once, the others wait; one of them says half of its preface.
    let mut silent: Vec<_> = (0..8).map(|_| TcpStream::connect(addr).expect("accepted")).collect();
    let _ = silent[0].write_all(b"PRI * HTTP/2.0");
    let locked_out = Caller::new(&server.addr, &world.key).agents().list_voice_agents(everything()).await;
    assert!(locked_out.is_err(), "the silent connections did not count");

    for connection in &mut silent {
        connection.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut said = Vec::new();
        let closed = connection.read_to_end(&mut said);
        let still_open = closed.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!still_open, "a silent connection was still open after {PATIENCE:?}");
    }
    granted(Caller::new(&server.addr, &world.key).agents().list_voice_agents(everything()).await);
    // Longer than a connection may take to say its first word: one that has spoken may be idle.
    tokio::time::sleep(Duration::from_secs(2)).await;
    granted(world.caller.agents().list_voice_agents(everything()).await);
}

/// One frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The kind and the stream of the next frame.
fn next_frame(connection: &mut TcpStream) -> (u8, u32) {
    let mut head = [0; 9];
    connection.read_exact(&mut head).expect("the connection is open");
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    connection.read_exact(&mut vec![0; length]).expect("the rest of the frame");
    (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]))
}

/// A refusal may overtake the message that it answers. The library counts what then comes to a closed stream, for the life
/// of the connection, and closes that at 1,024.
#[test]
fn however_many_requests_are_refused_before_they_were_said_the_connection_stays() {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let (end_stream, end_headers) = (1, 4);
    let server = TestServer::shared(Backend::Embedded);
    let mut connection = TcpStream::connect(server.addr.strip_prefix("http://").expect("http")).expect("accepted");
    connection.set_read_timeout(Some(PATIENCE)).expect("set");
    connection.set_nodelay(true).expect("set");
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("said");
    connection.write_all(&frame(SETTINGS, 0, 0, &[])).expect("said");
    // POST, http, and by name: :path, content-type, te (RFC 7541, sections 6.1 and 6.2.2). No credential.
    let path = b"/voxgate.v1.VoiceAgentService/ListVoiceAgents";
    let path_length = u8::try_from(path.len()).expect("short");
    let headers =
        [b"\x83\x86\x04", &[path_length][..], path, b"\x0f\x10\x10application/grpc\0\x02te\x08trailers"].concat();
    for request in 0..1_100 {
        let stream = 2 * request + 1;
        connection.write_all(&frame(HEADERS, end_headers, stream, &headers)).expect("said");
        loop {
            match next_frame(&mut connection) {
                (HEADERS, of) if of == stream => break,
                (GOAWAY, _) => panic!("the connection is closed after {request} refusals"),
                _ => {}
            }
        }
        connection.write_all(&frame(DATA, end_stream, stream, &[0; 5])).expect("said");
    }
}

/// The library's own health says that the server serves until it is told otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn health_never_says_serving_before_the_first_look_has_found_the_stores() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let redis = format!("redis://{}", silent.local_addr().expect("an address"));
    let database = postgres::fresh_database();
    let server = tokio::task::block_in_place(|| TestServer::unready(&database, &redis, ""));
    let client = HealthClient::new(Endpoint::from_shared(server.addr.clone()).expect("an address").connect_lazy());
    let health = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        client.clone().check(request).await.map(|answer| answer.into_inner().status())
    };
    eventually("the first answer", async || {
        let answer = health("").await.ok()?;
        assert_eq!(answer, ServingStatus::NotServing, "the first word");
        Some(())
    })
    .await;
    for service in ["voxgate.v1.AdmissionService", "voxgate.v1.TenantService"] {
        health(service).await.expect("a status from the beginning");
    }
    assert!(!server.is_ready());
    assert_eq!(server.metric("voxgate_ready").to_string(), "0");
    for _ in 0..50 {
        assert_eq!(health("").await.expect("an answer"), ServingStatus::NotServing);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_of_health_and_open_reflections_do_not_hold_up_a_shutdown() {
    let server = TestServer::private(Backend::Embedded);
    let channel = Endpoint::from_shared(server.addr.clone()).expect("an address").connect().await.expect("connected");
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = granted(HealthClient::new(channel.clone()).watch(request).await);
    watch.message().await.expect("a status").expect("a status");
    let asked = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let questions = tokio_stream::once(asked).chain(tokio_stream::pending());
    let mut reflection = granted(ServerReflectionClient::new(channel).server_reflection_info(questions).await);
    reflection.message().await.expect("an answer").expect("an answer");

    server.signal("TERM");
    server.wait_for_exit(Duration::from_secs(8));
    assert!(!server.log().contains("not all work was done"), "{}", server.log());
    let ended = loop {
        match watch.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the watch ended as if health were no longer watched"),
            Err(status) => break status,
        }
    };
    assert_eq!((ended.code(), ended.reason().as_str()), (Code::Unavailable, "SHUTTING_DOWN"), "{ended:?}");
}

#[tokio::test]
async fn without_reflection_nobody_is_told_what_is_served_and_all_else_is() {
    let server = TestServer::embedded_with("[listen]\nreflection = false\n");
    let world = World::on(&server.addr, &server.admin_key).await;
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let status = world.caller.call(&path, ServerReflectionRequest::default()).await.expect_err("refused");
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    }
    world.caller.call("/grpc.health.v1.Health/Check", HealthCheckRequest::default()).await.expect("health");
}

#[tokio::test]
async fn an_error_about_everything_fits_into_the_trailers_that_clients_take() {
    let world = World::shared(Backend::Embedded).await;
    let metadata = (0..32).map(|it| (format!("{it}{}", "k".repeat(4_000)), String::new())).collect();
    let request = CreateVoiceAgentRequest {
        voice_agent: Some(VoiceAgent { metadata, ..minimal_agent() }),
        ..CreateVoiceAgentRequest::default()
    };
    let refusal = world.caller.agents().create_voice_agent(request).await;
    let status = refused(refusal, Code::InvalidArgument, "VALIDATION_FAILED");
    assert!(status.details().len() < 4_500, "{} bytes of details", status.details().len());
    assert!(status.message().len() <= 500, "{}", status.message());
    let listed = status.get_details_bad_request().expect("a BadRequest").field_violations;
    let (last, rest) = listed.split_last().expect("some");
    assert_eq!(last.description, format!("{} more violations are not listed", 32 - rest.len()));
}

#[tokio::test]
async fn a_list_of_large_agents_comes_in_pages_that_fit_into_a_message() {
    let world = World::shared(Backend::Embedded).await;
    let metadata: BTreeMap<_, _> = (0..32).map(|it| (format!("key-{it}"), "v".repeat(500))).collect();
    let mut created = Vec::new();
    for _ in 0..20 {
        created.push(world.create(VoiceAgent { metadata: metadata.clone(), ..minimal_agent() }).await.id);
    }
    let (mut found, mut pages) = (Vec::new(), 0);
    let mut request = everything();
    loop {
        let page = granted(world.caller.agents().list_voice_agents(request.clone()).await);
        assert_eq!(page.total_size, 20);
        found.extend(page.voice_agents.into_iter().map(|agent| agent.id));
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    created.reverse();
    assert_eq!((found, pages), (created, 2));
}

/// The database holds the key that signs callback tokens.
#[test]
fn the_embedded_stores_are_readable_by_their_owner_alone() {
    let server = TestServer::private(Backend::Embedded);
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    let dir = server.data_dir();
    assert_eq!(mode(&dir), 0o700, "{}", dir.display());
    for name in ["voxgate.db", "voxgate.db-wal", "voxgate.db-shm", "dev-key"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
}
