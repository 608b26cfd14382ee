//! What spans of a verb say of it: ids and names, and nothing of what a caller sent.

use crate::{
    domain::{
        ids::{CallId, OperationId},
        node::{Command, NodeAddress},
        operation::Operation,
        verb::VerbName,
    },
    traces::Attribute,
};

fn of(verb: VerbName, operation: OperationId, call: &CallId) -> [Attribute; 3] {
    [
        Attribute::new("voxgate.verb", verb.as_str()),
        Attribute::new("voxgate.operation.id", operation.to_string()),
        Attribute::new("voxgate.call.id", call.to_string()),
    ]
}

pub(super) fn of_operation(operation: &Operation) -> [Attribute; 3] {
    of(operation.verb.name(), operation.id, &operation.call)
}

pub(super) fn of_command(command: &Command, node: &NodeAddress) -> [Attribute; 4] {
    let [verb, operation, call] = of(command.verb.name(), command.operation, &command.call);
    [verb, operation, call, Attribute::new("voxgate.node.id", node.node.to_string())]
}

/// By OpenTelemetry's conventions for messages. Each node has a mail of its own, which its id tells.
pub(super) fn of_letter(
    system: &'static str,
    step: &'static str,
    command: &Command,
    node: &NodeAddress,
) -> [Attribute; 7] {
    let [verb, operation, call, node] = of_command(command, node);
    let destination = Attribute::new("messaging.destination.template", "mail:{node}");
    let system = Attribute::new("messaging.system", system);
    [verb, operation, call, node, destination, system, Attribute::new("messaging.operation.type", step)]
}
