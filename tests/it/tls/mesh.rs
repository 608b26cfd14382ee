//! Services of the mesh, known by their certificates: each reaches exactly its tenant, by exactly its scopes.

use std::sync::LazyLock;

use tonic::Code;
use voxgate::{
    domain::Env,
    node_sim::{Behaviour, TlsOptions},
    proto::v1::{
        CreateApiKeyRequest, GetOperationRequest, GetTenantRequest, GetVoiceAgentRequest, Hello, HoldRequest,
        SessionStatus, TransferDestination, TransferRequest, node_message::Message as Said,
        transfer_destination::Destination,
    },
};

use super::{PATIENCE, list, turned_away, until};
use crate::{
    harness::{
        client::{Caller, Explained as _, faults, granted, refused},
        pki::{Authority, Pair},
        raw_node::{RawNode, hello},
        server::{Prepared, TestServer},
        world::{TestNode, World, acquire, unique},
    },
    rpc::{descriptors::every_rpc, matrix::judge_by_scopes},
};

pub(super) const FLOW: &str = "spiffe://mesh.example/ns/prod/sa/flow";
const CAMPAIGN: &str = "campaign.prod.svc";
const SANDBOX: &str = "sandbox.prod.svc";
const NODE: &str = "node.prod.svc";
const SHORT_LIVED_NODE: &str = "short.prod.svc";
const OPERATOR: &str = "operator.prod.svc";
/// What a service is limited to is another test's subject.
const MANY: &str = "rate_limit_per_min = 60000";

/// A server that knows some services by their certificates; the tests share it.
pub(super) struct Mesh {
    pub(super) authority: Authority,
    pub(super) server: TestServer,
    /// The tenant of FLOW, SANDBOX and NODE.
    tenant: String,
    /// The tenant of the others.
    other: String,
}

pub(super) static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let (authority, prepared) = (Authority::new(), Prepared::fresh());
    let (tenant, other) = (prepared.tenant(), prepared.tenant());
    let engine = "'voice_agents:read', 'voice_agents:write', 'slots:acquire', 'ai_sessions:read', \
                  'ai_sessions:control_admin'";
    let identities = [
        (FLOW, &tenant, engine, MANY),
        ("Campaign.PROD.svc", &other, "'voice_agents:read', 'voice_agents:write'", MANY),
        (SANDBOX, &tenant, &format!("{engine}, 'nodes:connect'"), &format!("sandbox = true\n{MANY}")),
        (NODE, &tenant, "'nodes:connect'", ""),
        (SHORT_LIVED_NODE, &other, "'nodes:connect'", MANY),
        (OPERATOR, &other, "'tenants:admin'", MANY),
    ];
    let mut config = "[listen]\nhandshake_timeout_ms = 3000\n[calls]\nheartbeat_interval_ms = 100\n\
                      [tls]\ncert_file = 'tls.crt'\nkey_file = 'tls.key'\nclient_ca_file = 'ca.crt'\n"
        .to_owned();
    for (san, tenant, scopes, more) in identities {
        let entry = format!("[[mesh.identities]]\nsan = '{san}'\ntenant = '{tenant}'\nscopes = [{scopes}]\n{more}\n");
        config.push_str(&entry);
    }
    let Pair { cert, key } = authority.server();
    let server = prepared.serve_tls(&config, &[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &authority.pem)]);
    Mesh { authority, server, tenant, other }
});

impl Mesh {
    /// A client whose certificate has these names, without a header.
    fn client(&self, names: &[&str]) -> Caller {
        self.showing(&self.authority.client(names))
    }

    fn showing(&self, pair: &Pair) -> Caller {
        Caller::over_tls(&self.server.addr, self.authority.trusted_by(Some(pair)))
    }

    /// The tenant of a service, as that one sees it.
    fn world(&self, caller: Caller, tenant: &str, sandbox: bool) -> World {
        let operator =
            Caller::over_tls(&self.server.addr, self.authority.trusted_by(None)).with(&self.server.admin_key);
        World {
            addr: self.server.addr.clone(),
            tenant: tenant.to_owned(),
            key: String::new(),
            caller,
            live_operator: operator.clone(),
            operator,
            sandbox,
            server: None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_known_by_its_spiffe_id_or_dns_name_and_reaches_its_tenant_alone() {
    let flow = MESH.world(MESH.client(&["flow.elsewhere.svc", FLOW]), &MESH.tenant, false);
    let campaign = MESH.world(MESH.client(&["CAMPAIGN.prod.svc"]), &MESH.other, false);
    for (own, other) in [(&flow, &campaign), (&campaign, &flow)] {
        let agent = own.agent(1).await;
        assert_eq!(agent.tenant_id, own.tenant);
        let request = GetVoiceAgentRequest { id: agent.id, ..GetVoiceAgentRequest::default() };
        granted(own.caller.agents().get_voice_agent(request.clone()).await);
        refused(other.caller.agents().get_voice_agent(request).await, Code::NotFound, "VOICE_AGENT_NOT_FOUND");
    }
    let denied = campaign.try_admit(acquire(&unique("call"), &campaign.agent(1).await.id)).await;
    let status = refused(denied, Code::PermissionDenied, "SCOPE_REQUIRED");
    assert_eq!(status.metadata_of_reason()["scope"], "slots:acquire");
    let request = GetTenantRequest { id: flow.tenant.clone() };
    let denied = flow.caller.tenants().get_tenant(request).await;
    assert_eq!(
        refused(denied, Code::PermissionDenied, "SCOPE_REQUIRED").metadata_of_reason()["scope"],
        "tenants:admin"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_answered_by_its_scopes_as_a_key_would_be_at_every_rpc() {
    let engine =
        ["voice_agents:read", "voice_agents:write", "slots:acquire", "ai_sessions:read", "ai_sessions:control_admin"];
    let sandbox = [&engine[..], &["nodes:connect"]].concat();
    let services: [(&str, &[&'static str], bool); 4] = [
        (FLOW, &engine, false),
        (SANDBOX, &sandbox, true),
        (SHORT_LIVED_NODE, &["nodes:connect"], false),
        (OPERATOR, &["tenants:admin"], false),
    ];
    let mut cells = 0;
    for (name, scopes, sandbox) in services {
        cells += judge_by_scopes(&MESH.client(&[name]), scopes, sandbox).await;
    }
    println!("{cells} cells");
    assert!(cells >= 4 * every_rpc().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_names_no_service_or_two_opens_nothing() {
    let strangers: [&[&str]; 7] = [
        &["unknown.prod.svc"],
        &["*.prod.svc"],
        &["spiffe://mesh.example/ns/prod/sa/FLOW"],
        &["spiffe://mesh.example/ns/prod/sa/flow/"],
        &["https://campaign.prod.svc"],
        &[FLOW, CAMPAIGN],
        &[],
    ];
    for names in strangers {
        let answer = list(&MESH.client(names)).await;
        assert_eq!(
            refused(answer, Code::Unauthenticated, "CREDENTIAL_INVALID").message(),
            "the credential is not valid"
        );
        granted(list(&MESH.client(names).with(&MESH.server.admin_key)).await);
    }
    // The same service twice is one service.
    granted(list(&MESH.client(&[CAMPAIGN, "Campaign.Prod.Svc"])).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_decides_whatever_the_certificate_is() {
    let flow = MESH.client(&[FLOW]);
    let others = MESH.world(flow.clone(), &MESH.other, false);
    let key = others.new_key(&["voice_agents:read", "voice_agents:write"]).await.secret;
    let by_key = World { caller: flow.with(&key), ..others };
    assert_eq!(by_key.agent(1).await.tenant_id, MESH.other);
    // The certificate could acquire; the key cannot.
    let denied = by_key.try_admit(acquire("call", &by_key.agent(1).await.id)).await;
    refused(denied, Code::PermissionDenied, "SCOPE_REQUIRED");
    refused(list(&flow.with("vg_live_garbage")).await, Code::Unauthenticated, "CREDENTIAL_INVALID");
    refused(list(&flow.with_header("Basic ZmxvdzpmbG93")).await, Code::Unauthenticated, "CREDENTIAL_MISSING");
    granted(list(&flow).await);
}

/// The files that a node reads at each connect.
fn written(pair: &Pair) -> (tempfile::TempDir, TlsOptions) {
    let dir = tempfile::tempdir().expect("a folder");
    let files = [("ca.crt", &MESH.authority.pem), ("tls.crt", &pair.cert), ("tls.key", &pair.key)];
    let [ca, cert, key] = files.map(|(name, text)| {
        std::fs::write(dir.path().join(name), text).expect("written");
        dir.path().join(name)
    });
    (dir, TlsOptions { ca, identity: Some((cert, key)) })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_lives_from_its_admission_to_its_transfer_without_any_key() {
    let flow = MESH.world(MESH.client(&[FLOW]), &MESH.tenant, false);
    let (_files, tls) = written(&MESH.authority.client(&[NODE]));
    let node = TestNode::start_with(&flow, &unique("node"), Behaviour::default(), None, Some(tls));
    node.wait_until_chosen(&flow).await;
    let agent = flow.agent(1).await;
    let slot = flow.admit(&agent.id).await;
    assert_eq!(slot.node_id.as_deref(), Some(node.id.as_str()));
    let hold = HoldRequest { call_id: slot.call_id.clone(), ..HoldRequest::default() };
    let done = granted(flow.caller.calls().hold(hold).await);
    let request = GetOperationRequest { operation_id: done.operation_id.clone() };
    assert_eq!(granted(flow.caller.sessions().get_operation(request).await).operation_id, done.operation_id);
    // Its callback token is good on any connection.
    let bearer = Caller::over_tls(&MESH.server.addr, MESH.authority.trusted_by(None)).with(&slot.callback_token);
    let destination = TransferDestination { destination: Some(Destination::AgentQueue("support".into())) };
    let request =
        TransferRequest { call_id: slot.call_id.clone(), destination: Some(destination), ..TransferRequest::default() };
    granted(bearer.calls().transfer(request).await);
    assert_eq!(flow.session(&slot).await.status(), SessionStatus::Ended);
    flow.freed(&agent.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_service_stays_on_its_side_of_the_fence() {
    let live = MESH.world(MESH.client(&[FLOW]), &MESH.tenant, false);
    let sandbox = MESH.world(MESH.client(&[SANDBOX]), &MESH.tenant, true);
    let agent = live.agent(2).await;
    let slot = live.admit(&agent.id).await;
    let again = sandbox.try_admit(acquire(&slot.call_id, &agent.id)).await;
    refused(again, Code::FailedPrecondition, "CALL_ALREADY_ADMITTED");
    let hold = HoldRequest { call_id: slot.call_id.clone(), ..HoldRequest::default() };
    refused(sandbox.caller.calls().hold(hold).await, Code::NotFound, "SESSION_NOT_FOUND");
    assert!(sandbox.session(&sandbox.admit(&agent.id).await).await.sandbox);
    assert!(!live.session(&slot).await.sandbox);

    let name = unique("node");
    let mut live_node = RawNode::begin(&sandbox, Said::Hello(hello(&live, &name))).await.expect("a stream");
    let answer = live_node.hear().await.map(tonic::Response::new);
    assert_eq!(faults(answer), ["hello.sandbox"]);
    RawNode::welcomed(&sandbox, Hello { ..hello(&sandbox, &name) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_the_mesh_gives_no_scope_that_it_lacks() {
    let operator = MESH.client(&[OPERATOR]);
    let tenant = granted(operator.tenants().get_tenant(GetTenantRequest { id: MESH.tenant.clone() }).await);
    let key = |scope: &str| CreateApiKeyRequest {
        tenant_id: Some(tenant.id.clone()),
        name: "of the mesh".into(),
        scopes: vec![scope.into()],
        ..CreateApiKeyRequest::default()
    };
    granted(operator.tenants().create_api_key(key("tenants:admin")).await);
    let denied = operator.tenants().create_api_key(key("nodes:connect")).await;
    refused(denied, Code::PermissionDenied, "SCOPE_REQUIRED");
}

/// Nobody asks for the certificate again on an open connection, so its end must be looked at by each request.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_on_an_open_connection_opens_nothing_more() {
    let not_after = Env::system().now().plus(std::time::Duration::from_secs(8));
    let campaign = MESH.showing(&MESH.authority.client_until(&[CAMPAIGN], not_after));
    let node = MESH.showing(&MESH.authority.client_until(&[SHORT_LIVED_NODE], not_after));
    let node = MESH.world(node, &MESH.other, false);
    granted(list(&campaign).await);
    let (mut stream, _) = RawNode::welcomed(&node, hello(&node, &unique("node"))).await;

    until("the expiry", async || list(&campaign).await.is_err()).await;
    refused(list(&campaign).await, Code::Unauthenticated, "CREDENTIAL_EXPIRED");
    granted(list(&campaign.with(&MESH.server.admin_key)).await);
    let ended = tokio::time::timeout(PATIENCE, stream.inbox.message()).await.expect("the stream's end");
    let status = ended.expect_err("a refusal");
    assert_eq!((status.code(), status.reason().as_str()), (Code::Unauthenticated, "CREDENTIAL_EXPIRED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_authorities_are_for_new_connections() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.crt");
    std::fs::write(&file, &old.pem).expect("written");
    let prepared = Prepared::fresh();
    let config = format!(
        "[tls]\ncert_file = 'tls.crt'\nkey_file = 'tls.key'\nclient_ca_file = '{}'\nreload_interval_ms = 50\n\
         [[mesh.identities]]\nsan = '{CAMPAIGN}'\ntenant = '{}'\nscopes = ['voice_agents:read']",
        file.display(),
        prepared.tenant()
    );
    let Pair { cert, key } = old.server();
    let server = prepared.serve_tls(&config, &[("tls.crt", &cert), ("tls.key", &key)]);
    let by =
        |authority: &Authority| Caller::over_tls(&server.addr, old.trusted_by(Some(&authority.client(&[CAMPAIGN]))));
    let early = by(&old);
    granted(list(&early).await);
    turned_away(&by(&new)).await;
    std::fs::write(&file, &new.pem).expect("written");
    until("the new authority", async || list(&by(&new)).await.is_ok()).await;
    turned_away(&by(&old)).await;
    granted(list(&early).await);
}
