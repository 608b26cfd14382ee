//! TLS, client certificates and ACL users.

use std::{fs, path::PathBuf, time::Instant};

use voxgate::{
    domain::Error,
    redis::{Redis, RedisSettings},
};

use super::{caller_at, unavailable};
use crate::{
    conformance::slot_fixture::secs,
    harness::{
        pki::{Authority, Pair},
        process::free_port,
        redis::{PrivateRedis, brisk},
    },
};

/// All that the service needs, and what README names.
const ACL: &[&str] = &[
    "--user",
    "vox",
    "on",
    ">s3cret/@",
    "~vg:*",
    "resetchannels",
    "-@all",
    "+@hash",
    "+@sortedset",
    "+@string",
    "+@connection",
    "+@keyspace",
    "+eval",
    "+evalsha",
    "+time",
];

struct Guarded {
    _server: PrivateRedis,
    port: u16,
    folder: tempfile::TempDir,
}

impl Guarded {
    /// It talks TLS, wants a certificate of its authority, and a login.
    fn start(authority: &Authority) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("written");
            path.to_str().expect("UTF-8").to_owned()
        };
        let Pair { cert, key } = authority.server();
        let files = (write("ca.crt", &authority.pem), write("tls.crt", &cert), write("tls.key", &key));
        let (port, text) = (free_port(), |port: u16| port.to_string());
        let tls_port = text(port);
        let mut args = vec!["--tls-port", &tls_port, "--tls-auth-clients", "yes"];
        args.extend(["--tls-ca-cert-file", &files.0, "--tls-cert-file", &files.1, "--tls-key-file", &files.2]);
        args.extend(ACL);
        Self { _server: PrivateRedis::start_with(&args), port, folder }
    }

    fn url(&self, login: &str) -> String {
        format!("rediss://{login}@127.0.0.1:{}", self.port)
    }

    fn settings(&self, authority: &Authority, client: Option<&Pair>) -> RedisSettings {
        // Each time another folder: what is read at each connection must stay as it is.
        let folder = tempfile::tempdir_in(self.folder.path()).expect("a folder").keep();
        let write = |name: &str, text: &str| -> PathBuf {
            let path = folder.join(name);
            fs::write(&path, text).expect("written");
            path
        };
        RedisSettings {
            tls_ca_file: Some(write("trusted.crt", &authority.pem)),
            tls_cert_file: client.map(|pair| write("client.crt", &pair.cert)),
            tls_key_file: client.map(|pair| write("client.key", &pair.key)),
            ..brisk()
        }
    }
}

const LOGIN: &str = "vox:s3cret%2F%40";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_behind_tls_a_client_certificate_and_an_acl_user_serves_slots_and_nobody_else() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let client = authority.client(&["voxgate.internal"]);
    let redis = Guarded::start(&authority);

    let caller = caller_at(&redis.url(LOGIN), redis.settings(&authority, Some(&client)));
    let start = Instant::now();
    let lease = caller.grant(&caller.ask(caller.agent(), "call")).await;
    println!("the first lease by TLS took {:?}", start.elapsed());
    caller.renew(&lease, 60).await;
    let held = caller.leases(std::slice::from_ref(&lease.call)).await.pop().flatten().expect("it is live");
    assert_eq!((held.id, held.fence), (lease.id, lease.fence));
    assert!(caller.release(&lease).await.released);

    let trusted = redis.settings(&authority, Some(&client));
    let plain = format!("redis://{LOGIN}@127.0.0.1:{}", redis.port);
    let without_files = RedisSettings { tls_ca_file: None, tls_cert_file: None, tls_key_file: None, ..trusted.clone() };
    let wrong_login = redis.url("vox:hunter2");
    for (why, url, settings, is_peers_fault) in [
        ("another password", &wrong_login, trusted.clone(), false),
        ("plain text", &plain, without_files, false),
        ("no certificate of ours", &redis.url(LOGIN), redis.settings(&authority, None), false),
        ("an authority that is not trusted", &redis.url(LOGIN), redis.settings(&stranger, Some(&client)), true),
    ] {
        let caller = caller_at(url, settings);
        let start = Instant::now();
        let error = caller.store.acquire(caller.tenant, &caller.ask(caller.agent(), "call")).await.expect_err(why);
        unavailable(&error);
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        assert_eq!(format!("{error:?}").contains("invalid peer certificate"), is_peers_fault, "{why}: {error:?}");
        println!("{why}: refused after {:?}: {error:?}", start.elapsed());
        assert!(start.elapsed() < secs(2));
    }
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_refused_at_the_start_all_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = Some(folder.path().join("missing.crt"));
    let settings = RedisSettings { tls_ca_file: missing.clone(), tls_cert_file: missing, ..RedisSettings::default() };
    for (url, fields) in [
        ("rediss://h", vec!["redis.tls_ca_file", "redis.tls_cert_file", "redis.tls_key_file"]),
        ("redis://h", vec!["redis.tls_ca_file", "redis.tls_cert_file", "redis.tls_key_file"]),
        ("rediss+cluster://h/1", vec!["redis_url", "redis.tls_ca_file", "redis.tls_cert_file", "redis.tls_key_file"]),
    ] {
        match Redis::connect(&url.to_owned().into(), settings.clone()) {
            Err(Error::Invalid(faults)) => {
                let named: Vec<_> = faults.iter().map(|it| it.field.as_str()).collect();
                assert_eq!(named, fields, "{url}: {faults:?}");
            }
            other => panic!("{url}: {other:?}"),
        }
    }
}
