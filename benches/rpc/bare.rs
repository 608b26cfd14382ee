//! The ceiling of a read: a tonic server of its own process that has no layers and answers one prepared message.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
};

use prost::Message as _;
use tonic::{Request, Response, Status, async_trait, transport::Server};
use voxgate::proto::v1::{
    GetVoiceAgentRequest, VoiceAgent,
    voice_agent_service_server::{VoiceAgentService, VoiceAgentServiceServer},
};

use super::harness::process::{Process, free_port};

/// Before the address and the file of the message: this program is then the server.
const FLAG: &str = "--serve-bare";

/// The server's process, from the side of the client.
#[derive(Debug)]
pub(crate) struct Bare {
    pub(crate) addr: SocketAddr,
    _process: Process,
}

impl Bare {
    pub(crate) fn start(agent: &VoiceAgent) -> Self {
        let dir = Process::folder("bare");
        let message = dir.join("message");
        fs::write(&message, agent.encode_to_vec()).expect("the message is written");
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.arg(FLAG).arg(addr.to_string()).arg(message);
        Self { addr, _process: Process::start(dir, &command) }
    }
}

#[derive(Debug)]
struct Prepared(VoiceAgent);

#[async_trait]
impl VoiceAgentService for Prepared {
    async fn get_voice_agent(&self, _: Request<GetVoiceAgentRequest>) -> Result<Response<VoiceAgent>, Status> {
        Ok(Response::new(self.0.clone()))
    }
}

/// Serves for ever if this process was started to be the server.
pub(crate) fn serve_if_asked() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [flag, addr, message] = &arguments[..] else { return };
    if flag != FLAG {
        return;
    }
    let addr = addr.parse().expect("an address");
    let agent = VoiceAgent::decode(&fs::read(Path::new(message)).expect("a message")[..]).expect("a voice agent");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let served = runtime.block_on(async move {
        let (_, health) = tonic_health::server::health_reporter();
        let services = Server::builder().add_service(health).add_service(VoiceAgentServiceServer::new(Prepared(agent)));
        services.serve(addr).await
    });
    served.expect("the bare server serves");
}
