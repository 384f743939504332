//! Keeps the rows at the end of the streams: follows, notices another stream or lost messages, rebuilds.

use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, BusError, From, Stored};
use events::query::RebuildSource;
use events::{Event, Timestamp};
use futures::FutureExt;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};
use repository::Repository;
use service::Clock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::projection::project;
use crate::read_ahead::{next_batch, read_ahead};
use crate::rebuild::{STREAMS, everything, rebuild};
use crate::store::{Step, Store, StoreError};

/// Pause after a failure that waiting may mend.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a rebuild that failed is tried again; the streams are followed meanwhile.
const REBUILD_PAUSE: Duration = Duration::from_secs(30);
/// How often the lag is measured.
const LAG_INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked for rows that may be forgotten.
const CLEAN_INTERVAL: Duration = Duration::from_secs(3600);

/// The projection of the streams into the rows.
#[derive(Clone)]
pub(crate) struct Projector {
    store: Store,
    bus: Bus,
    repository: Repository,
    clock: Arc<dyn Clock>,
    rebuild_asked: Arc<Notify>,
    metrics: Metrics,
}

#[derive(Clone)]
struct Metrics {
    applied: Gauge<u64>,
    lag: Gauge<u64>,
    events: Counter<u64>,
}

/// Why following ended.
#[derive(Debug, PartialEq)]
enum Ended {
    Asked,
    /// The rows are not of this stream, or messages are lost: a rebuild is wanted now.
    Rebuild,
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Projector {
    pub(crate) fn new(
        store: Store,
        bus: Bus,
        repository: Repository,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let meter = opentelemetry::global::meter("zektor.catalog");
        let metrics = Metrics {
            applied: meter.u64_gauge("zektor.catalog.applied_sequence").build(),
            lag: meter.u64_gauge("zektor.catalog.lag").build(),
            events: meter.u64_counter("zektor.catalog.events_applied").build(),
        };
        Projector {
            store,
            bus,
            repository,
            clock,
            rebuild_asked: Arc::new(Notify::new()),
            metrics,
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Notes that a rebuild is wanted and begins it; it is done even if this process is killed.
    pub(crate) async fn ask_rebuild(&self, source: RebuildSource) -> Result<(), StoreError> {
        self.store.want_rebuild(source).await?;
        self.rebuild_asked.notify_one();
        Ok(())
    }

    /// Projects until `shutdown`.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let work = self.rebuild_and_follow(&shutdown);
            if let Err(error) = work.await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "projecting is interrupted"
                );
                let _ = shutdown
                    .run_until_cancelled(self.clock.sleep(RETRY_PAUSE))
                    .await;
            }
        }
    }

    async fn rebuild_and_follow(&self, shutdown: &CancellationToken) -> Result<(), FollowError> {
        let compared = self.compare_streams().await;
        // The repository can be listed with the bus down.
        let pending = self.rebuild_if_wanted(shutdown).await?;
        compared?;
        let stop = shutdown.child_token();
        let follow = self.follow_all(&stop).fuse();
        tokio::pin!(follow);
        let again = async {
            if pending {
                self.clock.sleep(REBUILD_PAUSE).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = &mut follow => return ended.map(drop),
            () = self.rebuild_asked.notified() => {}
            () = again => {}
        }
        stop.cancel();
        follow.await.map(drop)
    }

    /// Notes for every stream whether the rows are of it; wants a rebuild where they are not.
    async fn compare_streams(&self) -> Result<(), FollowError> {
        for stream in STREAMS {
            let state = self.bus.stream_state(stream).await?;
            let position = self.store.position(stream).await?;
            let known =
                position.is_some_and(|at| at.created.is_none_or(|at| same(at, state.created)));
            let applied = position.map_or(0, |position| position.applied);
            let complete = applied <= state.last.0 && state.first.0 <= applied.saturating_add(1);
            if known && (complete || applied == 0) {
                if position.is_some_and(|position| position.created.is_none()) {
                    self.reset(stream, state.created, applied).await?;
                }
                continue;
            }
            tracing::info!(stream, ?position, ?state, "the rows are not of this stream");
            // Wanted first: killed in between, the rebuild is still done.
            self.store.want_rebuild(RebuildSource::Repository).await?;
            self.reset(stream, state.created, 0).await?;
        }
        Ok(())
    }

    async fn reset(
        &self,
        stream: &str,
        created: Timestamp,
        applied: u64,
    ) -> Result<(), StoreError> {
        let mut writing = self.store.begin().await?;
        writing.set_position(stream, Some(created), applied).await?;
        writing.commit().await
    }

    /// Does the rebuild that is wanted; whether one still is.
    async fn rebuild_if_wanted(&self, shutdown: &CancellationToken) -> Result<bool, StoreError> {
        let Some(source) = self.store.rebuild_state().await?.wanted else {
            return Ok(false);
        };
        tracing::info!(?source, "building the rows anew");
        let clock = &*self.clock;
        let work = rebuild(&self.store, &self.repository, &self.bus, clock, source);
        let span = tracing::info_span!("rebuild", ?source);
        // Dropped by a shutdown, the transaction is rolled back and the rebuild stays wanted.
        match shutdown.run_until_cancelled(work.instrument(span)).await {
            None => Ok(true),
            Some(Ok(())) => Ok(false),
            Some(Err(error)) => {
                let text = service::run::chain(&error);
                tracing::warn!(
                    error = text,
                    "the rows could not be built anew; trying again"
                );
                self.store.note_rebuild_error(&text).await?;
                Ok(true)
            }
        }
    }

    async fn follow_all(&self, stop: &CancellationToken) -> Result<Ended, FollowError> {
        let [events, wal] = STREAMS.map(|stream| Box::pin(self.follow(stream, stop)));
        // The first that ends, ends the other: between two transactions, so nothing is lost.
        tokio::select! {
            ended = events => ended,
            ended = wal => ended,
            ended = self.clean() => ended,
        }
    }

    /// Forgets what is long over, now and then.
    async fn clean(&self) -> Result<Ended, FollowError> {
        loop {
            let rows = self.store.clean(self.clock.now()).await?;
            if rows > 0 {
                tracing::info!(rows, "forgot rows that were over long ago");
            }
            self.clock.sleep(CLEAN_INTERVAL).await;
        }
    }

    async fn follow(&self, stream: &str, stop: &CancellationToken) -> Result<Ended, FollowError> {
        let Some(position) = self.store.position(stream).await? else {
            return Ok(Ended::Rebuild);
        };
        let Some(created) = position.created else {
            return Ok(Ended::Rebuild);
        };
        let from = From::Sequence(position.applied.saturating_add(1));
        let messages = self.bus.follow(everything(), from, stream);
        let mut steps = read_ahead(stream, messages, step_of);
        let mut applied = position.applied;
        let mut measuring = tokio::time::interval(LAG_INTERVAL);
        loop {
            let batch = tokio::select! {
                () = stop.cancelled() => return Ok(Ended::Asked),
                _ = measuring.tick() => {
                    self.measure(stream, applied).await;
                    continue;
                }
                batch = next_batch(&mut steps) => batch,
            };
            let Some((batch, end)) = batch else {
                return Ok(Ended::Rebuild);
            };
            let done = self.store.apply(stream, created, batch).await?;
            applied = done.sequence;
            let label = [KeyValue::new("stream", stream.to_owned())];
            self.metrics.applied.record(applied, &label);
            self.metrics.events.add(done.steps as u64, &label);
            match end {
                None => {}
                Some(BusError::StreamRecreated { .. }) => return Ok(Ended::Rebuild),
                Some(error) => return Err(error.into()),
            }
        }
    }

    async fn measure(&self, stream: &str, applied: u64) {
        if let Ok(state) = self.bus.stream_state(stream).await {
            let label = [KeyValue::new("stream", stream.to_owned())];
            self.metrics
                .lag
                .record(state.last.0.saturating_sub(applied), &label);
        }
    }
}

/// Moments rest with microseconds.
fn same(a: Timestamp, b: Timestamp) -> bool {
    a.timestamp_micros() == b.timestamp_micros()
}

/// One event, in a span that continues its trace: the last one of the road from a decision to the catalog.
fn step_of(stored: &Stored<Event>) -> Step {
    let event = &stored.envelope.message;
    let name = format!("project {}", event.type_name());
    let sequence = stored.sequence.0;
    let span = tracing::info_span!(
        "project",
        otel.name = name,
        otel.kind = "consumer",
        sequence
    );
    if let Some(parent) = &stored.envelope.traceparent {
        bus::trace::set_parent(&span, parent);
    }
    Step {
        sequence,
        changes: project(event, stored.envelope.time),
        span,
    }
}

#[cfg(test)]
mod tests;
