//! The configuration, read again while the gateway runs.

use std::path::PathBuf;
use std::sync::Arc;

use keyferry_model::credentials::{Credentials, Trust};
use keyferry_model::policy::GroupPolicy;
use keyferry_model::settings::Ike2Settings;

use super::signing::SigningKeys;
use crate::config::{self, Checked, GatewayConfig};
use crate::store::Store;

/// Where a configuration comes from, and the keys that belong to it.
pub(super) struct Source {
    pub(super) file: PathBuf,
    pub(super) keys: SigningKeys,
}

/// What is needed to read it again.
pub(super) struct Reloading {
    source: Source,
    /// What takes effect at the next start only.
    fixed: Fixed,
    credentials: Credentials,
}

/// What a configuration says now.
pub(super) struct Fresh {
    pub(super) groups: Vec<GroupPolicy>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) ike2: Ike2Settings,
    /// Keys that have changed and wait for the next start.
    pub(super) later: Vec<String>,
}

/// The part of a configuration that a running gateway cannot change: keys, and what they say.
type Fixed = Vec<(&'static str, String)>;

fn fixed(c: &GatewayConfig) -> Fixed {
    fn of(keys: &'static str, value: impl std::fmt::Debug) -> (&'static str, String) {
        (keys, format!("{value:?}"))
    }
    vec![
        of("listen", &c.listen),
        of("listen_tcp, tcp connections", (&c.listen_tcp, c.connections)),
        of("identity", &c.identity),
        of("store", &c.store),
        of("master_key", &c.master_key),
        of("[control] socket", &c.socket),
        of("[control] metrics", c.metrics),
        of("idle", c.idle),
        of("phase1_lifetime", c.life.lifetime),
        of("dpd", c.life.dpd),
        of("fragment_size", c.life.fragment_size),
        of("ike_lifetime, ike_liveness", (c.life.ike.lifetime, c.life.ike.liveness)),
        of("rekey_interface, rekey_source, rekey_ttl", &c.rekey),
        of("aggressive, danger_weak_phase1", c.phase1),
        of("key_log", &c.key_log),
        of("[gateway.redirect]", &c.ike2.redirect),
        of("ticket_lifetime", c.ike2.ticket_lifetime),
        of("which files trust, crl and ocsp name, revocation, crl_reload", &c.trust),
    ]
}

impl Reloading {
    pub(super) fn new(config: GatewayConfig, source: Source) -> Self {
        Self { fixed: fixed(&config), source, credentials: config.credentials }
    }

    /// The peers there are, with certificates held against another trust store.
    pub(super) fn set_trust(&mut self, trust: Trust) -> Arc<Credentials> {
        self.credentials = self.credentials.clone().with_trust(trust);
        Arc::new(self.credentials.clone())
    }

    /// The configuration as it is now. Keys of new groups are made, which takes a moment.
    pub(super) fn read(&mut self, store: &mut Store) -> Result<Fresh, String> {
        let checked = config::gateway(&self.source.file, config::environment());
        let Checked { config, warnings } = checked.map_err(|problems| problems.to_string())?;
        for problem in warnings {
            tracing::warn!("{problem}");
        }
        let now = fixed(&config);
        let changed = now.iter().zip(&self.fixed).filter(|(now, before)| now != before);
        let later = changed.map(|((keys, _), _)| (*keys).to_owned()).collect();
        let keys = &mut self.source.keys;
        let groups = tokio::task::block_in_place(|| keys.policies(&config, store)).map_err(|e| format!("{e:#}"))?;
        self.credentials = config.credentials;
        Ok(Fresh { groups, credentials: Arc::new(self.credentials.clone()), ike2: config.ike2, later })
    }
}
