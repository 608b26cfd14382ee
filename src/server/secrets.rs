//! The key ring: where it comes from, and bringing what is kept under its first key.

use std::{io::Write as _, path::Path, sync::Arc};

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    agents::{self, SqlVoiceAgentStore},
    config::{Config, SecretSettings},
    db::Database,
    domain::{
        Env,
        keyring::{KeyRing, Rewrapped},
    },
    tenants::{SqlTenantStore, TenantStore as _},
    webhooks::{self, SqlWebhookStore},
};

const MISSING: &str = "secrets are kept sealed, which needs a key ring: set VOXGATE_KEY_RING_FILE to a file with a line \
    `id:key`, where key is 32 random bytes in base64 (`echo \"k1:$(openssl rand -base64 32)\" > key-ring`)";

/// The ring that the configuration names; nothing where it names none.
fn configured(settings: &SecretSettings) -> anyhow::Result<Option<KeyRing>> {
    let text = match (&settings.key_ring, &settings.key_ring_file) {
        (Some(_), Some(_)) => {
            anyhow::bail!("VOXGATE_KEY_RING and VOXGATE_KEY_RING_FILE are both set: which one counts?")
        }
        (Some(text), None) => text.clone(),
        (None, Some(file)) => read(file)?,
        (None, None) => return Ok(None),
    };
    KeyRing::parse(&text).map(Some).map_err(|faults| anyhow::anyhow!("the key ring is refused: {}", faults.summary()))
}

/// The ring that there is: none is made.
pub(super) fn existing(config: &Config) -> anyhow::Result<Option<KeyRing>> {
    let (ring, file) = (configured(&config.secrets)?, config.data_dir.join("key-ring"));
    match config.database_url {
        None if ring.is_none() && file.exists() => kept(&file).map(Some),
        _ => Ok(ring),
    }
}

/// For production: without a ring nothing starts.
pub(super) fn required(config: &Config) -> anyhow::Result<Arc<KeyRing>> {
    configured(&config.secrets)?.map(Arc::new).context(MISSING)
}

/// For the embedded default: its own ring in the data folder, made when it is not there yet.
pub(super) fn embedded(config: &Config) -> anyhow::Result<Arc<KeyRing>> {
    if let Some(ring) = configured(&config.secrets)? {
        return Ok(Arc::new(ring));
    }
    let file = config.data_dir.join("key-ring");
    if !file.exists() {
        write_new(&file, KeyRing::generate(&Env::system()).expose_secret())?;
    }
    kept(&file).map(Arc::new)
}

fn kept(file: &Path) -> anyhow::Result<KeyRing> {
    let ring = KeyRing::parse(&read(file)?);
    ring.map_err(|faults| anyhow::anyhow!("{} is refused: {}", file.display(), faults.summary()))
}

/// Brings everything sealed under the first key of the ring.
pub(super) async fn rewrap(database: &Database, ring: &KeyRing) -> anyhow::Result<Rewrapped> {
    let env = Env::system();
    let tenants = SqlTenantStore::new(database.clone());
    let (mut rewrapped, mut unopened) = (0, 0);
    if let Some(key) = tenants.kept_token_key().await? {
        match key.rewrapped(ring, &env) {
            Ok(Some(sealed)) => rewrapped += u64::from(tenants.reseal_token_key(&key, &sealed).await?),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the key that signs callback tokens does not open and is left as it is"
                );
                unopened += 1;
            }
        }
    }
    let agents = agents::rewrap(&SqlVoiceAgentStore::new(database.clone()), ring, &env).await?;
    let webhooks = webhooks::rewrap(&SqlWebhookStore::new(database.clone()), ring, &env).await?;
    Ok(agents.and(webhooks).and(Rewrapped { rewrapped, unopened, done: true }))
}

fn read(file: &Path) -> anyhow::Result<SecretString> {
    let text = std::fs::read_to_string(file);
    Ok(text.with_context(|| format!("the key ring {} cannot be read", file.display()))?.into())
}

/// Whole or not at all, for its owner alone, and never over a ring that another process made meanwhile.
fn write_new(file: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let draft = file.with_extension(format!("{}.tmp", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    let mut writer = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    writer.write_all(text.as_bytes())?;
    writer.sync_all()?;
    let linked = std::fs::hard_link(&draft, file);
    std::fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("the key ring {} cannot be written", file.display()))
        }
        _ => Ok(()),
    }
}
