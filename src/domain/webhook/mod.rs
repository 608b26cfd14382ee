//! Webhook endpoints: where a tenant wants its events posted.

mod delivery;
mod secret;

pub use self::{
    delivery::{Attempt, DEAD_KEPT_FOR, DeadLetter, GIVE_UP_AFTER, PostedEvent, Taken, next_attempt},
    secret::{EndpointSecrets, PreviousSecret, WebhookSecret},
};
use super::{
    clock::{Env, Timestamp},
    error::Result,
    event_pattern::EventPatterns,
    ids::{TenantId, WebhookEndpointId},
    keyring::KeyRing,
    text::{MediaUrls, has_user_info, optional_prose},
    violations::{Fault, Violations},
    words::words,
};

/// Endpoints of one tenant: each is asked about for each event.
pub const ENDPOINTS_MAX: u16 = 50;
const DESCRIPTION_MAX_CHARS: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookEndpoint {
    pub id: WebhookEndpointId,
    pub tenant: TenantId,
    pub url: String,
    pub event_types: EventPatterns,
    pub enabled: bool,
    pub description: Option<String>,
    /// Made by a sandbox key: it gets the events of sandbox calls alone.
    pub sandbox: bool,
    pub secrets: EndpointSecrets,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What may be set about an endpoint, unchecked.
#[derive(Debug, Clone, Default)]
pub struct WebhookDraft {
    pub url: Option<String>,
    pub event_types: Vec<String>,
    pub enabled: Option<bool>,
    pub description: Option<String>,
}

words!(
    /// The paths that an `update_mask` may name.
    WebhookField {
        Url = "url",
        EventTypes = "event_types",
        Enabled = "enabled",
        Description = "description",
    }
);

impl WebhookEndpoint {
    /// A new endpoint, and its secret: that one is in the answer, and kept sealed alone.
    pub fn create(
        env: &Env,
        ring: &KeyRing,
        tenant: TenantId,
        sandbox: bool,
        draft: &WebhookDraft,
        urls: MediaUrls,
    ) -> Result<(Self, WebhookSecret)> {
        let (id, secret, now) = (WebhookEndpointId::new(env), WebhookSecret::mint(env), env.now());
        let blank = Self {
            id,
            tenant,
            url: String::new(),
            event_types: EventPatterns::default(),
            enabled: true,
            description: None,
            sandbox,
            secrets: EndpointSecrets { current: secret.sealed(ring, env, tenant, id)?, previous: None },
            created_at: now,
            updated_at: now,
        };
        let endpoint = blank.with(draft, WebhookField::ALL, urls)?;
        Ok((endpoint, secret))
    }

    /// This endpoint with `fields` taken from `patch`; a field absent there goes back to its default. The others are not
    /// judged again: a URL that the configuration does not allow any more can still be disabled.
    pub fn patched(
        &self,
        patch: &WebhookDraft,
        fields: &[WebhookField],
        urls: MediaUrls,
        now: Timestamp,
    ) -> Result<Self, Violations> {
        let updated_at = now.max(self.updated_at);
        Ok(Self { updated_at, ..self.clone().with(patch, fields, urls)? })
    }

    fn with(mut self, draft: &WebhookDraft, fields: &[WebhookField], urls: MediaUrls) -> Result<Self, Violations> {
        let mut faults = Violations::default();
        for field in fields {
            match field {
                WebhookField::Url => {
                    self.url = faults.take("url", parse_url(draft.url.clone(), urls)).unwrap_or_default();
                }
                WebhookField::EventTypes => match EventPatterns::parse("event_types", &draft.event_types) {
                    Ok(patterns) => self.event_types = patterns,
                    Err(part) => faults.absorb("", part),
                },
                WebhookField::Enabled => self.enabled = draft.enabled.unwrap_or(true),
                WebhookField::Description => {
                    let parsed = optional_prose(draft.description.clone(), DESCRIPTION_MAX_CHARS);
                    self.description = faults.take("description", parsed).flatten();
                }
            }
        }
        faults.into_result(Some(self))
    }
}

/// What a URL resolves to is judged when it is dialled.
fn parse_url(url: Option<String>, urls: MediaUrls) -> Result<String, Fault> {
    let url = urls.parse(url.filter(|url| !url.is_empty()).ok_or_else(Fault::required)?)?;
    if has_user_info(&url) {
        return Err(Fault::new("must not carry a user name or password; deliveries are signed"));
    }
    if url.contains('#') {
        return Err(Fault::new("must not have a fragment"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str, urls: MediaUrls) -> Result<String, Fault> {
        parse_url(Some(url.to_owned()), urls)
    }

    #[test]
    fn an_endpoint_is_a_public_https_url_without_credentials() {
        for good in ["https://hooks.example/voxgate?tenant=7", "https://93.184.216.34:8443/"] {
            assert!(parsed(good, MediaUrls::Public).is_ok(), "{good}");
        }
        let long = format!("https://hooks.example/{}", "x".repeat(2_048));
        for bad in [
            "",
            "hooks.example",
            "http://hooks.example/",
            "ftp://hooks.example/",
            "https://user@hooks.example/",
            "https://user:password@hooks.example/",
            "https://@hooks.example/",
            "https://hooks.example/#here",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0177.1/",
            "https://[::ffff:10.0.0.1]/",
            "https://localhost:8443/",
            "https://169.254.169.254/latest/meta-data",
            "https://hooks.example/a b",
            &long,
        ] {
            assert!(parsed(bad, MediaUrls::Public).is_err(), "{bad}");
        }
        assert!(parsed("http://127.0.0.1:8080/hook", MediaUrls::Any).is_ok());
        assert!(parsed("http://user@127.0.0.1:8080/hook", MediaUrls::Any).is_err());
    }

    #[test]
    fn a_patch_takes_its_fields_and_judges_no_others() {
        let (env, ring) = (Env::system(), KeyRing::parse(&KeyRing::generate(&Env::system())).expect("a ring"));
        let draft = WebhookDraft { url: Some("http://10.0.0.1/".into()), ..WebhookDraft::default() };
        let tenant = TenantId::new(&env);
        let (inner, _) = WebhookEndpoint::create(&env, &ring, tenant, false, &draft, MediaUrls::Any).expect("allowed");
        let patch = WebhookDraft { enabled: Some(false), event_types: vec!["x".into()], ..WebhookDraft::default() };
        let fields = [WebhookField::Enabled, WebhookField::Description];
        let disabled = inner.patched(&patch, &fields, MediaUrls::Public, env.now()).expect("not judged again");
        assert!(!disabled.enabled && disabled.url == inner.url && disabled.event_types == inner.event_types);
        let faults = inner.patched(&patch, WebhookField::ALL, MediaUrls::Public, env.now()).expect_err("two");
        let named: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(named, ["url", "event_types[0]"]);
    }
}
