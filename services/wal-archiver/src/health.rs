//! Whether the repository can be reached, looked at in the background.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use repository::Repository;
use service::Health;
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_secs(15);

/// Registers the readiness check "repository", and looks every few seconds until `shutdown`.
pub fn check_repository(health: &Health, repository: &Repository, shutdown: &CancellationToken) {
    let last = Arc::new(Mutex::new(Err("not looked at yet".to_owned())));
    let shown = Arc::clone(&last);
    health.check("repository", move || {
        shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    });
    let (repository, shutdown) = (repository.clone(), shutdown.clone());
    drop(tokio::spawn(async move {
        loop {
            // The documents are few, and what a start without the bus needs.
            let seen = repository.instances().await.map(drop);
            let seen = seen.map_err(|error| service::run::chain(&error));
            *last.lock().unwrap_or_else(PoisonError::into_inner) = seen;
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }));
}
