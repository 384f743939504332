//! Reading of a stream while what was read before is written.
//!
//! Decoding and projecting are a core's work beside the database's; and what has come while a batch was written is the
//! next batch, large when the rows are behind and small when they are not.

use bus::{BusError, Stored};
use events::Event;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;

use crate::store::Step;

/// Events of one transaction, and those that are read before it is over.
pub(crate) const LARGEST_BATCH: usize = 2000;

/// The steps of a stream, or the error that ended it. Nothing is read any more when the receiver is gone.
pub(crate) fn read_ahead(
    stream: &str,
    mut messages: impl Stream<Item = Result<Stored<Event>, BusError>> + Send + Unpin + 'static,
    step_of: fn(&Stored<Event>) -> Step,
) -> mpsc::Receiver<Result<Step, BusError>> {
    let (sender, receiver) = mpsc::channel(LARGEST_BATCH);
    let stream = stream.to_owned();
    drop(tokio::spawn(async move {
        loop {
            let item = tokio::select! {
                () = sender.closed() => return,
                item = messages.next() => item,
            };
            let step = match item {
                None => return,
                Some(Ok(stored)) => Ok(step_of(&stored)),
                Some(Err(BusError::Undecodable { sequence, source })) => {
                    let error = &source as &dyn std::error::Error;
                    tracing::warn!(stream, %sequence, error, "passed over a message");
                    Ok(Step {
                        sequence: sequence.0,
                        changes: Vec::new(),
                        span: tracing::Span::none(),
                    })
                }
                Some(Err(error)) => Err(error),
            };
            if sender.send(step).await.is_err() {
                return;
            }
        }
    }));
    receiver
}

/// The next steps, as many as have come; and the error that ended the stream. Neither, when it ended without one.
///
/// Dropped before it is done, it has taken nothing.
pub(crate) async fn next_batch(
    steps: &mut mpsc::Receiver<Result<Step, BusError>>,
) -> Option<(Vec<Step>, Option<BusError>)> {
    let mut items = Vec::with_capacity(LARGEST_BATCH);
    if steps.recv_many(&mut items, LARGEST_BATCH).await == 0 {
        return None;
    }
    let mut batch = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Ok(step) => batch.push(step),
            Err(error) => return Some((batch, Some(error))),
        }
    }
    Some((batch, None))
}
