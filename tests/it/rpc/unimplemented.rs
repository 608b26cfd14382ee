//! Exactly which RPCs this release does not serve yet. One that is built leaves the table in the same change.

use std::collections::BTreeSet;

use tonic::Code;

use super::descriptors::every_rpc;
use crate::harness::world::{World, on_both_backends};

on_both_backends!(exactly_these_rpcs_are_not_implemented);

pub(super) const UNIMPLEMENTED: &[&str] = &[];

async fn exactly_these_rpcs_are_not_implemented(world: World) {
    let mut found = BTreeSet::new();
    for rpc in every_rpc() {
        // An empty message is a valid request of some and a faulty one of others; neither is UNIMPLEMENTED.
        let answer = world.operator.call(&rpc.path(), ()).await;
        if answer.is_err_and(|status| status.code() == Code::Unimplemented) {
            found.insert(format!("{}/{}", rpc.service, rpc.method));
        }
    }
    let expected: BTreeSet<String> = UNIMPLEMENTED.iter().map(ToString::to_string).collect();
    let surprises: Vec<_> = found.symmetric_difference(&expected).collect();
    assert!(surprises.is_empty(), "on one side only: {surprises:#?}");
}
