//! The configuration, read again while the gateway runs.

use std::path::PathBuf;
use std::sync::Arc;

use keyferry_model::credentials::{Credentials, Trust};
use keyferry_model::policy::GroupPolicy;

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
    fixed: String,
    credentials: Credentials,
}

/// The part of a configuration that a running gateway cannot change.
fn fixed(c: &GatewayConfig) -> String {
    format!(
        "{:?}",
        (
            &c.listen,
            &c.listen_tcp,
            c.connections,
            &c.identity,
            &c.store,
            &c.master_key,
            &c.socket,
            c.idle,
            &c.rekey,
            &c.key_log,
            &c.ike2.redirect,
            c.ike2.ticket_lifetime,
        )
    )
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

    /// The groups and peers of the configuration as it is now. Keys of new groups are made, which takes a moment.
    pub(super) fn read(&mut self, store: &mut Store) -> Result<(Vec<GroupPolicy>, Arc<Credentials>), String> {
        let checked = config::gateway(&self.source.file, config::environment());
        let Checked { config, warnings } = checked.map_err(|problems| problems.to_string())?;
        for problem in warnings {
            tracing::warn!("{problem}");
        }
        if fixed(&config) != self.fixed {
            tracing::warn!("changes of [gateway] and [control] take effect when the gateway is started again");
        }
        let keys = &mut self.source.keys;
        let groups = tokio::task::block_in_place(|| keys.policies(&config, store)).map_err(|e| format!("{e:#}"))?;
        self.credentials = config.credentials;
        Ok((groups, Arc::new(self.credentials.clone())))
    }
}
