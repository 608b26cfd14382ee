//! TLS of the gRPC port: who gets in, and what a new certificate changes.

mod mesh;
mod postgres;

use std::{
    fs,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpStream},
    os::unix::fs::symlink,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tonic::{Code, Status};
use voxgate::{
    domain::{Env, Timestamp},
    proto::v1::{ListVoiceAgentsRequest, ListVoiceAgentsResponse, control_message::Message as Told},
};

use self::mesh::MESH;
use crate::harness::{
    client::{Caller, granted, refused},
    pki::{Authority, Pair},
    process::wait_for,
    raw_node::{RawNode, hello},
    server::{Backend, Prepared, TestServer},
    world::World,
};

const PATIENCE: Duration = Duration::from_secs(15);

async fn list(caller: &Caller) -> Result<tonic::Response<ListVoiceAgentsResponse>, Status> {
    caller.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await
}

/// The connection came to nothing: what is told then is told by the client's own library.
async fn turned_away(caller: &Caller) {
    let status = list(caller).await.expect_err("no connection");
    assert!(status.details().is_empty(), "an answer of the service: {status:?}");
}

/// Asks until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "{what} did not come within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_as_good_by_tls_as_in_plain_text() {
    let caller = Caller::over_tls(&MESH.server.addr, MESH.authority.trusted_by(None));
    granted(list(&caller.with(&MESH.server.admin_key)).await);
    refused(list(&caller).await, Code::Unauthenticated, "CREDENTIAL_MISSING");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_speaks_another_language_than_the_port_is_closed_and_counted() {
    let plain = TestServer::shared(Backend::Embedded);
    let at_tls = Caller::new(&MESH.server.addr.replace("https://", "http://"), &MESH.server.admin_key);
    let at_plain = Caller::over_tls(&plain.addr.replace("http://", "https://"), MESH.authority.trusted_by(None));
    for (server, caller) in [(&MESH.server, at_tls), (plain, at_plain)] {
        let before = server.metric("voxgate_connections_garbled_total");
        turned_away(&caller).await;
        // The client may have seen enough of our first words before we saw its own.
        until("the count", async || server.metric("voxgate_connections_garbled_total") > before).await;
    }
}

/// The server counts a connection after its client has heard of its end.
fn counted(metric: &str, least: f64) {
    tokio::task::block_in_place(|| wait_for(metric, PATIENCE, || (MESH.server.metric(metric) >= least).then_some(())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_that_cannot_be_trusted_ends_the_handshake() {
    let expired = MESH.authority.client_until(&[mesh::FLOW], Env::system().now().minus(Duration::from_mins(5)));
    let of_others = Authority::new().client(&[mesh::FLOW]);
    // A server's certificate does not make its holder a client.
    let of_a_server = MESH.authority.server();
    for pair in [&expired, &of_others, &of_a_server] {
        let before = MESH.server.metric("voxgate_tls_handshakes_failed_total");
        let caller = Caller::over_tls(&MESH.server.addr, MESH.authority.trusted_by(Some(pair)));
        turned_away(&caller.with(&MESH.server.admin_key)).await;
        counted("voxgate_tls_handshakes_failed_total", before + 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_handshakes_hold_nobody_up_and_are_closed_in_time() {
    let addr = MESH.server.addr.strip_prefix("https://").expect("https");
    let before = MESH.server.metric("voxgate_connections_silent_total");
    let mut slow: Vec<_> = (0..20).map(|_| TcpStream::connect(addr).expect("accepted")).collect();
    for connection in slow.iter_mut().skip(10) {
        // The first bytes of a ClientHello of 512.
        connection.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).expect("sent");
    }
    let caller = Caller::over_tls(&MESH.server.addr, MESH.authority.trusted_by(None));
    // One after the other, they would take a minute.
    let caller = caller.with(&MESH.server.admin_key);
    granted(tokio::time::timeout(PATIENCE, list(&caller)).await.expect("nobody is held up"));
    for connection in &mut slow {
        connection.set_read_timeout(Some(PATIENCE)).expect("set");
        let closed = connection.read_to_end(&mut Vec::new());
        let still_open = closed.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!still_open, "a slow connection was still open after {PATIENCE:?}");
    }
    counted("voxgate_connections_silent_total", before + 20.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_certificates_are_required_a_key_alone_does_not_connect() {
    let authority = Authority::new();
    let Pair { cert, key } = authority.server();
    let config = "[tls]\ncert_file = 'tls.crt'\nkey_file = 'tls.key'\nclient_ca_file = 'ca.crt'\n\
                  client_certs = 'required'";
    let prepared = Prepared::fresh();
    let server = prepared.serve_tls(config, &[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &authority.pem)]);
    let without = Caller::over_tls(&server.addr, authority.trusted_by(None));
    turned_away(&without.with(&server.admin_key)).await;
    let pair = authority.client(&["anything.svc"]);
    let with = Caller::over_tls(&server.addr, authority.trusted_by(Some(&pair)));
    granted(list(&with.with(&server.admin_key)).await);
}

/// Speaks the first words of HTTP/2, and hears the first of the server's: what a server tells of later sessions comes
/// before those.
fn dial(config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let addr = MESH.server.addr.strip_prefix("https://").expect("https");
    let name = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut connection = ClientConnection::new(config.clone(), name).expect("a client");
    let mut socket = TcpStream::connect(addr)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    stream.read_exact(&mut [0; 9])?;
    Ok(connection)
}

#[test]
fn the_port_speaks_http_2_alone_by_two_versions_and_resumes_no_session() {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(MESH.authority.pem.as_bytes()).expect("PEM")).expect("an authority");
    let client = |version: &'static SupportedProtocolVersion, protocol: &[u8]| {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(&[version]).expect("a version");
        let mut config = builder.with_root_certificates(roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    };
    for version in [&TLS12, &TLS13] {
        let config = client(version, b"h2");
        for _ in 0..2 {
            let connection = dial(&config).expect("connected");
            assert_eq!(connection.protocol_version(), Some(version.version));
            assert_eq!(connection.alpn_protocol(), Some(b"h2".as_slice()));
            assert_ne!(connection.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
        }
        dial(&client(version, b"http/1.1")).expect_err("another protocol");
    }
}

/// A pair as Kubernetes mounts it: files behind one link, which is swapped.
fn mount(dir: &Path, version: &str, pair: &Pair) {
    let folder = dir.join(version);
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("tls.crt"), &pair.cert).expect("written");
    fs::write(folder.join("tls.key"), &pair.key).expect("written");
    symlink(version, dir.join("link")).expect("linked");
    fs::rename(dir.join("link"), dir.join("mounted")).expect("swapped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_for_new_connections_and_a_broken_one_for_none() {
    let (old, new) = (Authority::new(), Authority::new());
    let mounts = tempfile::tempdir().expect("a folder");
    mount(mounts.path(), "first", &old.server());
    let dir = mounts.path().join("mounted");
    let config = format!(
        "[calls]\nheartbeat_interval_ms = 100\n[tls]\ncert_file = '{0}/tls.crt'\nkey_file = '{0}/tls.key'\n\
         reload_interval_ms = 50",
        dir.display()
    );
    let server = Prepared::fresh().serve_tls(&config, &[]);
    let connect =
        |authority: &Authority| Caller::over_tls(&server.addr, authority.trusted_by(None)).with(&server.admin_key);
    let expiry = server.metric("voxgate_tls_certificate_expires_seconds");
    let now = Env::system().now().since(Timestamp::from_micros(0)).as_secs_f64();
    assert!((expiry - now - 86_400.0).abs() < 600.0, "{expiry} at {now}");
    let world = World::over(connect(&old), &server.addr).await;
    let (mut stream, _) = RawNode::welcomed(&world, hello(&world, "node")).await;
    turned_away(&connect(&new)).await;

    mount(mounts.path(), "second", &new.server());
    until("the new certificate", async || list(&connect(&new)).await.is_ok()).await;
    assert!((server.metric(r#"voxgate_tls_reloads_total{outcome="loaded"}"#) - 1.0).abs() < 0.1);
    turned_away(&connect(&old)).await;

    // Half a certificate, and a key of another: neither is taken, each is counted and logged once.
    let refused = r#"voxgate_tls_reloads_total{outcome="refused"}"#;
    let Pair { cert, key } = old.server();
    for (count, version, pair) in [
        (1.0, "third", Pair { cert: cert[..cert.len() / 2].to_owned(), key }),
        (2.0, "fourth", Pair { cert, key: old.server().key }),
    ] {
        mount(mounts.path(), version, &pair);
        until("the refusal", async || server.metric(refused) >= count).await;
        granted(list(&connect(&new)).await);
    }
    fs::remove_file(mounts.path().join("mounted")).expect("removed");
    until("the refusal", async || server.metric(refused) >= 3.0).await;
    granted(list(&connect(&new)).await);
    assert_eq!(server.log().matches("the certificate before it stays in use").count(), 3, "{}", server.log());
    assert!(server.log().contains("are no pair"), "{}", server.log());

    // What began under the first certificate is as it was.
    let slot = world.admit(&world.agent(1).await.id).await;
    match stream.hear().await.expect("no end") {
        Some(Told::CallAssigned(assigned)) => assert_eq!(assigned.call_id, slot.call_id),
        other => panic!("expected a call, heard {other:?}"),
    }
}

#[test]
fn a_start_with_files_that_cannot_work_names_each_of_them() {
    let authority = Authority::new();
    let (Pair { cert, .. }, Pair { key, .. }) = (authority.server(), authority.server());
    let prepared = Prepared::fresh();
    let config = "[tls]\ncert_file = 'tls.crt'\nkey_file = 'tls.key'\nclient_ca_file = 'ca.crt'";
    let said = prepared.refusal(config, &[("tls.crt", &cert)]);
    for file in ["tls.key_file tls.key: No such file", "tls.client_ca_file ca.crt: No such file"] {
        assert!(said.contains(file), "{said}");
    }
    let said = prepared.refusal(config, &[("tls.crt", &key), ("tls.key", &cert), ("ca.crt", "")]);
    for file in
        ["tls.cert_file tls.crt: no certificate", "tls.key_file tls.key: no private", "tls.client_ca_file ca.crt"]
    {
        assert!(said.contains(file), "{said}");
    }
    let said = prepared.refusal(config, &[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &authority.pem)]);
    assert!(said.contains("tls.cert_file tls.crt and tls.key_file tls.key are no pair"), "{said}");
}
