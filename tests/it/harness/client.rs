//! Callers of the service: thin clients with a credential, and words for what errors say.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use prost::{
    Message,
    bytes::{Buf as _, BufMut as _},
};
use tonic::{
    Code, Request, Response, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{InterceptedService, http::uri::PathAndQuery},
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use tonic_types::StatusExt as _;
use voxgate::proto::v1::{
    admission_service_client::AdmissionServiceClient, media_node_service_client::MediaNodeServiceClient,
    session_service_client::SessionServiceClient, tenant_service_client::TenantServiceClient,
    voice_agent_service_client::VoiceAgentServiceClient,
};

/// A channel on which every request bears a credential.
pub(crate) type Bearing = InterceptedService<Channel, Bearer>;

/// Adds `authorization: Bearer …`, or nothing.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Someone who calls a server, with a credential or without.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    channel: Channel,
    bearer: Bearer,
}

impl Caller {
    /// Connects at the first request, and again whenever the server comes back.
    pub(crate) fn anonymous(addr: &str) -> Self {
        Self::by(&Endpoint::from_shared(addr.to_owned()).expect("an address"))
    }

    /// By TLS, and without a header.
    pub(crate) fn over_tls(addr: &str, config: ClientTlsConfig) -> Self {
        let endpoint = Endpoint::from_shared(addr.to_owned()).expect("an address");
        Self::by(&endpoint.tls_config(config).expect("certificates"))
    }

    /// Takes no more from a stream than it has room for, which is little.
    pub(crate) fn narrow(addr: &str, credential: &str) -> Self {
        let endpoint = Endpoint::from_shared(addr.to_owned()).expect("an address");
        Self::by(&endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535)).with(credential)
    }

    /// By a channel that somebody else keeps.
    pub(crate) fn on(channel: Channel) -> Self {
        Self { channel, bearer: Bearer(None) }
    }

    fn by(endpoint: &Endpoint) -> Self {
        Self { channel: endpoint.connect_lazy(), bearer: Bearer(None) }
    }

    pub(crate) fn new(addr: &str, credential: &str) -> Self {
        Self::anonymous(addr).with(credential)
    }

    /// The same connection with another credential.
    pub(crate) fn with(&self, credential: &str) -> Self {
        self.with_header(&format!("Bearer {credential}"))
    }

    /// The same connection with a whole `authorization` header.
    pub(crate) fn with_header(&self, header: &str) -> Self {
        let value = header.parse().expect("visible ASCII");
        Self { channel: self.channel.clone(), bearer: Bearer(Some(value)) }
    }

    /// The same credential at another address.
    pub(crate) fn to(&self, addr: &str) -> Self {
        Self { bearer: self.bearer.clone(), ..Self::anonymous(addr) }
    }

    fn service(&self) -> Bearing {
        InterceptedService::new(self.channel.clone(), self.bearer.clone())
    }

    pub(crate) fn agents(&self) -> VoiceAgentServiceClient<Bearing> {
        VoiceAgentServiceClient::new(self.service())
    }

    pub(crate) fn calls(&self) -> AdmissionServiceClient<Bearing> {
        AdmissionServiceClient::new(self.service())
    }

    pub(crate) fn sessions(&self) -> SessionServiceClient<Bearing> {
        SessionServiceClient::new(self.service())
    }

    pub(crate) fn tenants(&self) -> TenantServiceClient<Bearing> {
        TenantServiceClient::new(self.service())
    }

    pub(crate) fn nodes(&self) -> MediaNodeServiceClient<Bearing> {
        MediaNodeServiceClient::new(self.service())
    }

    /// Calls any RPC by its path (`/package.Service/Method`) with one message, and passes over what is answered.
    pub(crate) async fn call(&self, path: &str, request: impl Message) -> Result<(), Status> {
        self.ask(path, request.encode_to_vec()).await.map(|_| ())
    }

    /// The same in bytes: the first message that is answered, or nothing where a stream ends without one.
    pub(crate) async fn ask(&self, path: &str, request: Vec<u8>) -> Result<Vec<u8>, Status> {
        let mut grpc = Grpc::new(self.service());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path_is_watch = path.ends_with("/WatchEvents");
        let path: PathAndQuery = path.parse().expect("a path");
        // A unary RPC is a stream of one message each way, so this one call serves all four kinds.
        let messages = tokio_stream::once(request);
        let mut answers: Streaming<Vec<u8>> =
            grpc.streaming(Request::new(messages), path, Verbatim).await?.into_inner();
        let first = answers.message();
        // A watch of events has begun once it is answered; that there are any is not said.
        if path_is_watch {
            let soon = tokio::time::timeout(Duration::from_millis(300), first).await;
            return Ok(soon.unwrap_or(Ok(None))?.unwrap_or_default());
        }
        Ok(first.await?.unwrap_or_default())
    }
}

/// Messages as the bytes that they are.
#[derive(Debug, Default)]
struct Verbatim;

impl Codec for Verbatim {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Verbatim {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Verbatim {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

/// What an error tells beyond its code.
pub(crate) trait Explained {
    /// The reason of `ErrorInfo`, whose domain must be ours.
    fn reason(&self) -> String;
    fn metadata_of_reason(&self) -> BTreeMap<String, String>;
    /// The fields at fault, in the order told.
    fn faulty_fields(&self) -> Vec<String>;
    fn retry_delay(&self) -> Option<Duration>;
    /// `quota_value`-free reading of QuotaFailure: subject and description of each scope.
    fn quotas(&self) -> Vec<(String, String)>;
}

impl Explained for Status {
    fn reason(&self) -> String {
        let info = self.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {self:?}"));
        assert_eq!(info.domain, "voxgate", "{self:?}");
        info.reason
    }

    fn metadata_of_reason(&self) -> BTreeMap<String, String> {
        self.get_details_error_info().map(|info| info.metadata.into_iter().collect()).unwrap_or_default()
    }

    fn faulty_fields(&self) -> Vec<String> {
        let violations = self.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        violations.into_iter().map(|violation| violation.field).collect()
    }

    fn retry_delay(&self) -> Option<Duration> {
        self.get_details_retry_info().and_then(|info| info.retry_delay)
    }

    fn quotas(&self) -> Vec<(String, String)> {
        let violations = self.get_details_quota_failure().map(|quota| quota.violations).unwrap_or_default();
        violations.into_iter().map(|violation| (violation.subject, violation.description)).collect()
    }
}

/// The refusal, which must have this code and reason.
#[track_caller]
pub(crate) fn refused<T: Debug>(result: Result<Response<T>, Status>, code: Code, reason: &str) -> Status {
    match result {
        Ok(answer) => panic!("expected {code:?} / {reason}, was answered {:?}", answer.into_inner()),
        Err(status) => {
            assert_eq!((status.code(), status.reason().as_str()), (code, reason), "{status:?}");
            status
        }
    }
}

/// The faulty fields of an INVALID_ARGUMENT / VALIDATION_FAILED.
#[track_caller]
pub(crate) fn faults<T: Debug>(result: Result<Response<T>, Status>) -> Vec<String> {
    refused(result, Code::InvalidArgument, "VALIDATION_FAILED").faulty_fields()
}

/// The answer, which must be one.
#[track_caller]
pub(crate) fn granted<T>(result: Result<Response<T>, Status>) -> T {
    match result {
        Ok(answer) => answer.into_inner(),
        Err(status) => panic!("refused: {status:?}"),
    }
}

/// `request` with a deadline.
pub(crate) fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}
