//! What tells a process to end: signals, and the end of its supervisor.

use std::io::Read;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

pub(super) struct Stops {
    terminate: Signal,
    interrupt: Signal,
    supervisor: Option<oneshot::Receiver<()>>,
    /// Signals seen so far: the end of the supervisor is not one, so that a supervisor which closes stdin
    /// and sends SIGTERM too does not cut the drain short.
    signals: u32,
}

impl Stops {
    /// From now on signals do not kill the process.
    pub(super) fn listen(supervised: bool) -> std::io::Result<Self> {
        Ok(Stops {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            supervisor: supervised.then(supervisor_end),
            signals: 0,
        })
    }

    /// Returns at the first of all.
    pub(super) async fn first(&mut self) -> &'static str {
        let supervisor = async {
            match self.supervisor.take() {
                Some(end) => end.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => { self.signals += 1; "SIGTERM" }
            _ = self.interrupt.recv() => { self.signals += 1; "SIGINT" }
            _ = supervisor => "the supervisor ended",
        }
    }

    /// Returns at the second signal of all.
    pub(super) async fn second(&mut self) -> &'static str {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            };
            self.signals += 1;
            if self.signals > 1 {
                return name;
            }
        }
    }
}

/// Resolves when stdin ends. On a thread of its own: a blocked read of tokio's would hold up the runtime's end.
fn supervisor_end() -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    let reader = std::thread::Builder::new().name("supervisor".to_owned());
    let spawned = reader.spawn(move || {
        let mut buffer = [0; 256];
        let mut stdin = std::io::stdin().lock();
        // An error means the same as the end: nobody holds the other side any more.
        while matches!(stdin.read(&mut buffer), Ok(read) if read > 0) {}
        let _ = ended.send(());
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "cannot watch the supervisor");
    }
    end
}
