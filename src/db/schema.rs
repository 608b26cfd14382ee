//! The tables, as diesel knows them. What constrains them is in `migrations/`.

use diesel::{allow_tables_to_appear_in_same_query, table};

table! {
    use diesel::sql_types::{BigInt, Integer, Nullable, Text};
    use crate::db::types::{Document, Id, Moment};

    tenants (id) {
        id -> Id,
        name -> Text,
        default_ws_url -> Nullable<Text>,
        default_voice_agent_id -> Nullable<Id>,
        max_concurrent -> Integer,
        created_at -> Moment,
        updated_at -> Moment,
        destination_policy -> Nullable<Document>,
    }
}

table! {
    use diesel::sql_types::{Binary, Bool, Integer, Nullable, Text};
    use crate::db::types::{Document, Id, Moment};

    api_keys (tenant_id, id) {
        tenant_id -> Id,
        id -> Id,
        name -> Text,
        prefix -> Text,
        hash -> Binary,
        scopes -> Document,
        sandbox -> Bool,
        rate_limit_per_min -> Integer,
        created_at -> Moment,
        expires_at -> Nullable<Moment>,
        revoked_at -> Nullable<Moment>,
        last_used_at -> Nullable<Moment>,
        previous_hash -> Nullable<Binary>,
        previous_expires_at -> Nullable<Moment>,
    }
}

table! {
    use diesel::sql_types::{Binary, Integer, Text};

    token_keys (generation) {
        generation -> Integer,
        kid -> Text,
        sealed_secret -> Binary,
    }
}

table! {
    use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text};
    use crate::db::types::{Document, Id, Moment};

    voice_agents (tenant_id, id) {
        tenant_id -> Id,
        id -> Id,
        name -> Text,
        ws_url -> Text,
        sealed_auth_token -> Nullable<Binary>,
        audio_format -> Document,
        external_agent_id -> Nullable<Text>,
        transfer_destination -> Nullable<Text>,
        max_concurrent -> Integer,
        reserved_inbound -> Integer,
        token_lifetime -> Text,
        subprotocol -> Text,
        ws_disconnect_action -> Text,
        metadata -> Document,
        status -> Text,
        revision -> BigInt,
        created_at -> Moment,
        updated_at -> Moment,
        behavior -> Nullable<Document>,
        updated_by -> Text,
    }
}

table! {
    use diesel::sql_types::{BigInt, Binary, Nullable, Text};
    use crate::db::types::{Document, Id, Moment};

    voice_agent_revisions (tenant_id, voice_agent_id, revision) {
        tenant_id -> Id,
        voice_agent_id -> Id,
        revision -> BigInt,
        spec -> Document,
        sealed_auth_token -> Nullable<Binary>,
        status -> Text,
        updated_by -> Text,
        updated_at -> Moment,
    }
}

table! {
    use diesel::sql_types::Binary;
    use crate::db::types::{Id, Moment};

    voice_agent_create_requests (tenant_id, request_id) {
        tenant_id -> Id,
        request_id -> Id,
        digest -> Binary,
        voice_agent_id -> Id,
        created_at -> Moment,
    }
}

table! {
    use diesel::sql_types::{BigInt, Bool, Nullable, Text};
    use crate::db::types::{Document, Id, Moment};

    sessions (tenant_id, id) {
        tenant_id -> Id,
        id -> Id,
        call_id -> Text,
        voice_agent_id -> Id,
        voice_agent_revision -> BigInt,
        lease_id -> Text,
        fence -> BigInt,
        direction -> Text,
        node_id -> Nullable<Text>,
        sandbox -> Bool,
        routing -> Document,
        metadata -> Document,
        state -> Document,
        status -> Text,
        outcome -> Nullable<Text>,
        started_at -> Moment,
        answered_at -> Nullable<Moment>,
        ended_at -> Nullable<Moment>,
        lease_expires_at -> Moment,
        version -> BigInt,
        lease_ttl_ms -> BigInt,
        record -> Document,
        ends_at -> Nullable<Moment>,
        events -> BigInt,
        direct -> Nullable<Document>,
    }
}

table! {
    use diesel::sql_types::{BigInt, Nullable, Text};
    use crate::db::types::{Document, Id, Moment};

    events (tenant_id, id) {
        tenant_id -> Id,
        id -> Id,
        kind -> Text,
        created_at -> Moment,
        session_id -> Id,
        call_id -> Text,
        session_sequence -> BigInt,
        data -> Document,
        sequence -> Nullable<BigInt>,
    }
}

table! {
    use diesel::sql_types::BigInt;
    use crate::db::types::Id;

    event_sequences (tenant_id) {
        tenant_id -> Id,
        last -> BigInt,
    }
}

table! {
    use diesel::sql_types::BigInt;
    use crate::db::types::{Document, Id, Moment};

    session_log (tenant_id, session_id, entry) {
        tenant_id -> Id,
        session_id -> Id,
        entry -> BigInt,
        logged_at -> Moment,
        metadata -> Document,
    }
}

table! {
    use diesel::sql_types::Nullable;
    use crate::db::types::{Document, Id};

    session_results (tenant_id, session_id) {
        tenant_id -> Id,
        session_id -> Id,
        transcript -> Document,
        results -> Nullable<Document>,
        warnings -> Document,
    }
}

table! {
    use diesel::sql_types::Bool;
    use crate::db::types::{Id, Moment};

    revoked_tokens (tenant_id, jti) {
        tenant_id -> Id,
        jti -> Id,
        sandbox -> Bool,
        revoked_at -> Moment,
        until -> Moment,
    }
}

table! {
    use diesel::sql_types::{Binary, Nullable, Text};
    use crate::db::types::{Document, Id, Moment};

    operations (tenant_id, id) {
        tenant_id -> Id,
        id -> Id,
        session_id -> Id,
        call_id -> Text,
        verb -> Text,
        request -> Document,
        idempotency_key -> Text,
        digest -> Binary,
        state -> Text,
        accepted_at -> Moment,
        dispatched_at -> Nullable<Moment>,
        finished_at -> Nullable<Moment>,
        result -> Nullable<Document>,
        failure -> Nullable<Document>,
    }
}

table! {
    use diesel::sql_types::{Nullable, Text};
    use crate::db::types::{Document, Id, Moment};

    audit_entries (tenant_id, id) {
        tenant_id -> Id,
        id -> Id,
        created_at -> Moment,
        actor -> Text,
        action -> Text,
        target -> Text,
        call_id -> Text,
        session_id -> Nullable<Id>,
        error_reason -> Text,
        details -> Document,
    }
}

table! {
    use diesel::sql_types::{BigInt, Binary, Bool, Integer, Nullable, Text};
    use crate::db::types::{Document, Id, Moment};

    webhook_endpoints (tenant_id, id) {
        tenant_id -> Id,
        id -> Id,
        url -> Text,
        event_types -> Document,
        enabled -> Bool,
        description -> Nullable<Text>,
        sandbox -> Bool,
        sealed_secret -> Binary,
        sealed_previous_secret -> Nullable<Binary>,
        previous_secret_expires_at -> Nullable<Moment>,
        created_at -> Moment,
        updated_at -> Moment,
        position -> BigInt,
        due_at -> Nullable<Moment>,
        failures -> Integer,
    }
}

table! {
    use diesel::sql_types::{Integer, Nullable, Text};
    use crate::db::types::{Document, Id, Moment};

    webhook_deliveries (tenant_id, endpoint_id, event_id) {
        tenant_id -> Id,
        endpoint_id -> Id,
        event_id -> Id,
        id -> Id,
        event -> Document,
        made_at -> Moment,
        attempts -> Integer,
        first_attempt_at -> Nullable<Moment>,
        last_attempt_at -> Nullable<Moment>,
        last_status -> Integer,
        last_error -> Text,
        next_attempt_at -> Moment,
        claim -> Nullable<Id>,
        dead_at -> Nullable<Moment>,
    }
}

allow_tables_to_appear_in_same_query!(
    tenants,
    api_keys,
    token_keys,
    voice_agents,
    voice_agent_revisions,
    voice_agent_create_requests,
    sessions,
    session_log,
    session_results,
    events,
    event_sequences,
    revoked_tokens,
    operations,
    audit_entries,
    webhook_endpoints,
    webhook_deliveries,
);
