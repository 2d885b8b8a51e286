//! Watches the files that say whom to trust, and reads them again when they have changed or on SIGHUP.

use anyhow::Context;
use keyferry_model::credentials::Trust;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{Doubt, Stamp, TrustFiles};
use crate::random::Clock;

/// Begins to watch files that have just been read. Each time they have changed and can be used, what they say now comes out of
/// the channel; what cannot be used is told to the operator, and what was read before stays. Without files SIGHUP does
/// nothing, but does not end the process either.
///
/// # Errors
/// Signals cannot be received.
pub(crate) fn watch(files: Option<TrustFiles>) -> anyhow::Result<mpsc::Receiver<Trust>> {
    let mut hangup = signal(SignalKind::hangup()).context("no SIGHUP")?;
    let (news, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let Some(files) = files else {
            while hangup.recv().await.is_some() {}
            return;
        };
        let mut stamp = files.stamp();
        loop {
            let told = pause(&mut hangup, &files).await;
            let (again, before) = (files.clone(), stamp.clone());
            let Ok(look) = tokio::task::spawn_blocking(move || look(&again, &before, told)).await else { return };
            let Some((now, loaded)) = look else { continue };
            stamp = now;
            match loaded {
                Ok((trust, doubts)) => {
                    doubts.iter().for_each(|doubt| tracing::warn!("{doubt}"));
                    tracing::info!("trusted certificates and revocation lists are read again");
                    if news.send(trust).await.is_err() {
                        return;
                    }
                }
                Err(fault) => tracing::error!("{fault}; what was read before stays in use"),
            }
        }
    });
    Ok(receiver)
}

/// Waits for the next look; true if somebody has asked for it.
async fn pause(hangup: &mut Signal, files: &TrustFiles) -> bool {
    tokio::select! {
        _ = hangup.recv() => true,
        () = tokio::time::sleep(files.reload()) => false,
    }
}

type Loaded = Result<(Trust, Vec<Doubt>), Doubt>;

/// Reads the files if they have changed or somebody has asked. The stamp is older than what is read: a file that is written
/// meanwhile is read once more.
fn look(files: &TrustFiles, before: &Stamp, told: bool) -> Option<(Stamp, Loaded)> {
    let now = files.stamp();
    (told || now != *before).then(|| (now, files.load(Clock::new().now().wall)))
}
