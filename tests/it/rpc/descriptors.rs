//! The RPCs there are, from the descriptors that the service itself serves.

use prost::Message as _;

/// One RPC of `voxgate.v1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rpc {
    pub(crate) service: String,
    pub(crate) method: String,
}

impl Rpc {
    pub(super) fn path(&self) -> String {
        format!("/voxgate.v1.{}/{}", self.service, self.method)
    }
}

pub(crate) fn every_rpc() -> Vec<Rpc> {
    let set = prost_types::FileDescriptorSet::decode(voxgate::proto::DESCRIPTOR_SET).expect("our descriptors");
    let files = set.file.iter().filter(|file| file.package() == "voxgate.v1");
    let mut rpcs: Vec<Rpc> = files
        .flat_map(|file| &file.service)
        .flat_map(|service| {
            service
                .method
                .iter()
                .map(|method| Rpc { service: service.name().to_owned(), method: method.name().to_owned() })
        })
        .collect();
    rpcs.sort();
    assert!(rpcs.len() > 60, "{rpcs:?}");
    rpcs
}

/// The fields of a message of `voxgate.v1`.
pub(super) fn fields_of(message: &str) -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(voxgate::proto::DESCRIPTOR_SET).expect("our descriptors");
    let files = set.file.iter().filter(|file| file.package() == "voxgate.v1");
    let mut messages = files.flat_map(|file| &file.message_type);
    let message = messages.find(|found| found.name() == message).expect("a message");
    message.field.iter().map(|field| field.name().to_owned()).collect()
}
