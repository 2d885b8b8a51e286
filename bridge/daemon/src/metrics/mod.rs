//! What monitoring reads: the status in Prometheus' text format.
//!
//! ```text
//!  scraper --GET /metrics--> http ---+                             +--> member: MemberStatus, EngineStatus
//!  keyferry metrics --> control -----+--Request::Metrics--> owner--+--> gateway: GatewayStatus
//! ```
//!
//! Numbers are read when they are asked for; nothing is counted twice for monitoring's sake. `docs/operation.md` lists all.

mod gateway;
mod http;
mod member;
mod page;

use std::net::SocketAddr;

use anyhow::Context;
use tokio::sync::mpsc;

pub(crate) use gateway::gateway;
pub(crate) use http::Listener;
pub(crate) use member::member;

use crate::control::Call;

/// Offers metrics where the configuration says so, if it does.
///
/// # Errors
/// The address cannot be listened at.
pub(crate) async fn offer(at: Option<SocketAddr>, calls: mpsc::Sender<Call>) -> anyhow::Result<Option<Listener>> {
    let Some(at) = at else { return Ok(None) };
    let listener = Listener::start(at, calls).await;
    let listener = listener.with_context(|| format!("cannot offer metrics at {at} (metrics in [control])"))?;
    tracing::info!(at = %listener.local(), "metrics are offered");
    Ok(Some(listener))
}
