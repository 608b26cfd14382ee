//! The key ring, and whether what the database keeps sealed opens under it.

use std::path::Path;

use secrecy::SecretString;
use tokio::task::spawn_blocking;

use super::{
    super::secrets,
    join,
    report::{Finding, in_words},
};
use crate::{
    agents::{SqlVoiceAgentStore, VoiceAgentStore as _},
    config::Config,
    db::{Database, examine::PostgresFound},
    domain::{Env, Result, keyring::KeyRing, voice_agent::AuthToken, webhook::WebhookSecret},
    tenants::{SqlTenantStore, TenantStore as _},
    webhooks::{SqlWebhookStore, WebhookStore as _},
};

const RING: &str = "key_ring";
const SECRETS: &str = "key_ring.database";
/// Of agents, and of webhook endpoints: a ring that lacks a key mostly fails at the first.
const LOOKED_AT: u16 = 1_000;
const GIVE_KEYS: &str = "give this replica the ring that the others have; a key may leave it only when \
    `voxgate secrets rewrap` has brought everything under another one";

pub(super) async fn on_postgres(config: &Config, url: &SecretString, found: Option<&PostgresFound>) -> Vec<Finding> {
    let (finding, ring) = ring(config, true).await;
    let (Some(ring), Some(found)) = (ring, found) else { return vec![finding] };
    let skipped = |why: &str, first: &str| Finding::warning(SECRETS, format!("not looked at: {why}"), first);
    let of_secrets = if !found.schema.missing.is_empty() {
        skipped("the schema lacks migrations", "migrate first, then look again")
    } else if found.server.bypasses_rls {
        skipped("the role is one that the service refuses", "connect as another role, then look again")
    } else {
        match Database::postgres(url, &config.database) {
            Ok(database) => open(&database, &ring).await,
            Err(error) => unread(&error),
        }
    };
    vec![finding, of_secrets]
}

pub(super) async fn on_sqlite(config: &Config, file: Option<&Path>) -> Vec<Finding> {
    let (finding, ring) = ring(config, false).await;
    let (Some(ring), Some(file)) = (ring, file) else { return vec![finding] };
    let of_secrets = match Database::sqlite_as_it_is(file) {
        Ok(database) => open(&database, &ring).await,
        Err(error) => unread(&error),
    };
    vec![finding, of_secrets]
}

async fn ring(config: &Config, is_required: bool) -> (Finding, Option<KeyRing>) {
    let of = config.clone();
    match join(spawn_blocking(move || secrets::existing(&of))).await {
        Ok(Some(ring)) => {
            (Finding::ok(RING, format!("it opens, and has the keys {ring:?}; the first one seals")), Some(ring))
        }
        Ok(None) if is_required => {
            let advice =
                "set VOXGATE_KEY_RING_FILE to a file with a line `id:key`, where key is 32 random bytes in base64";
            (Finding::fault(RING, "there is none, and the service does not start without", advice), None)
        }
        Ok(None) => (Finding::ok(RING, "there is none yet: `voxgate dev` makes it in the data folder"), None),
        Err(error) => {
            let advice = "give it lines of `id:key`, each key 32 bytes in base64, in one of VOXGATE_KEY_RING and VOXGATE_KEY_RING_FILE";
            (Finding::fault(RING, format!("{error:#}"), advice), None)
        }
    }
}

/// Opens what the database keeps sealed.
async fn open(database: &Database, ring: &KeyRing) -> Finding {
    match opened(database, ring).await {
        Ok(Opened { why: Some(why), readable, unreadable }) => {
            let found = format!("{unreadable} of {} secrets do not open under this ring: {why}", readable + unreadable);
            Finding::fault(SECRETS, found, GIVE_KEYS)
        }
        Ok(Opened { readable: 0, .. }) => Finding::ok(SECRETS, "the database holds no secret yet"),
        Ok(Opened { readable, .. }) => {
            let found =
                format!("{readable} secrets open under this ring (at most {LOOKED_AT} of a kind are looked at)");
            Finding::ok(SECRETS, found)
        }
        Err(error) => unread(&error),
    }
}

fn unread(error: &crate::domain::Error) -> Finding {
    let found = format!("the sealed secrets cannot be read: {}", in_words(error));
    Finding::fault(SECRETS, found, "see what the lines of the database say, and that its tables belong to this role")
}

#[derive(Default)]
struct Opened {
    readable: u64,
    unreadable: u64,
    /// The first refusal: it names the field and the row.
    why: Option<String>,
}

impl Opened {
    fn note<T>(&mut self, outcome: &Result<T>) {
        match outcome {
            Ok(_) => self.readable += 1,
            Err(error) => {
                self.unreadable += 1;
                self.why.get_or_insert_with(|| in_words(error));
            }
        }
    }
}

async fn opened(database: &Database, ring: &KeyRing) -> Result<Opened> {
    let mut all = Opened::default();
    if let Some(key) = SqlTenantStore::new(database.clone()).kept_token_key().await? {
        all.note(&key.open(ring));
    }
    for token in SqlVoiceAgentStore::new(database.clone()).sealed_tokens(None, LOOKED_AT).await? {
        all.note(&AuthToken::Sealed(token.sealed).reveal(ring, token.tenant, token.agent));
    }
    let now = Env::system().now();
    for held in SqlWebhookStore::new(database.clone()).sealed_secrets(None, LOOKED_AT).await? {
        for sealed in held.secrets.valid_at(now) {
            all.note(&WebhookSecret::open(ring, held.tenant, held.endpoint, sealed));
        }
    }
    Ok(all)
}
