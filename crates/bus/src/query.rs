//! Questions and answers: JSON over core NATS, never stored.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use events::envelope::{TRACEPARENT_HEADER, TRACESTATE_HEADER};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::error::{QueryError, RequestError};
use crate::transport::{AskError, Questions, RawMessage, RawQuestion};
use crate::{Bus, BusError, trace};

/// Questions answered at the same time by one `serve`.
const CONCURRENT_QUESTIONS: usize = 64;
/// Pause before serving is tried again.
const SERVE_PAUSE: Duration = Duration::from_millis(250);
/// Header of an answer that is a [`QueryError`].
const REFUSED_HEADER: &str = "zektor-refused";

impl Bus {
    /// Asks on `subject` and waits for one answer.
    ///
    /// # Errors
    /// [`RequestError::Refused`] carries the service's own words.
    pub async fn request<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        subject: &str,
        question: &Q,
        timeout: Duration,
    ) -> Result<A, RequestError> {
        let ask = async {
            let question = self.question(subject, question)?;
            let answer = self.transport.ask(question, timeout).await;
            let answer = answer.map_err(|error| match error {
                AskError::NoResponder => RequestError::NoResponder {
                    subject: subject.to_owned(),
                },
                AskError::Timeout => RequestError::Timeout {
                    subject: subject.to_owned(),
                    after: timeout,
                },
                AskError::Bus(error) => RequestError::Bus(error),
            })?;
            if answer.header(REFUSED_HEADER).is_some() {
                return Err(RequestError::Refused(read(subject, &answer)?));
            }
            Ok(read(subject, &answer)?)
        };
        ask.instrument(trace::request_span(subject)).await
    }

    /// Answers questions on `subject`, which may hold wildcards, until `shutdown`; then lets those in hand
    /// end. Services with the same `queue_group` share the questions. The handler gets the subject that
    /// was asked on.
    ///
    /// # Errors
    /// Only for what waiting does not mend.
    pub async fn serve<Q, A, F, R>(
        &self,
        subject: &str,
        queue_group: &str,
        handler: F,
        shutdown: CancellationToken,
    ) -> Result<(), BusError>
    where
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + Send + 'static,
        F: Fn(String, Q) -> R + Send + Sync + 'static,
        R: Future<Output = Result<A, QueryError>> + Send + 'static,
    {
        let opened = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            opened = self.open_questions(subject, queue_group) => opened,
        };
        let mut questions = opened?;
        let handler = Arc::new(handler);
        let slots = Arc::new(Semaphore::new(CONCURRENT_QUESTIONS));
        let mut in_hand = JoinSet::new();
        loop {
            while in_hand.try_join_next().is_some() {}
            let next = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, questions.next().await)
            };
            let (slot, question) = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                (slot, question) = next => match question {
                    Some(question) => (slot, question),
                    None => break,
                },
            };
            let handler = Arc::clone(&handler);
            drop(in_hand.spawn(async move {
                let subject = &question.message.subject;
                let parent = question.message.header(TRACEPARENT_HEADER);
                let span = trace::serve_span(subject, parent);
                answer(question, &*handler).instrument(span).await;
                drop(slot);
            }));
        }
        drop(questions);
        let _in_time = tokio::time::timeout(self.drain_deadline, async {
            while in_hand.join_next().await.is_some() {}
        })
        .await;
        Ok(())
    }

    async fn open_questions(
        &self,
        subject: &str,
        group: &str,
    ) -> Result<Box<dyn Questions>, BusError> {
        loop {
            match self.transport.serve(subject, group).await {
                Err(error) if error.is_transient() => tokio::time::sleep(SERVE_PAUSE).await,
                opened => return opened,
            }
        }
    }

    fn question<Q: Serialize>(&self, subject: &str, question: &Q) -> Result<RawMessage, BusError> {
        let payload = serde_json::to_vec(question).map_err(|source| BusError::Encode {
            what: format!("the question on {subject}"),
            source,
        })?;
        let mut headers = BTreeMap::new();
        if let Some((parent, state)) = trace::current() {
            let _ = headers.insert(TRACEPARENT_HEADER.to_owned(), parent);
            headers.extend(state.map(|state| (TRACESTATE_HEADER.to_owned(), state)));
        }
        let message = RawMessage {
            subject: subject.to_owned(),
            headers,
            payload: payload.into(),
        };
        let limit = self.transport.max_payload();
        if message.size() > limit {
            return Err(BusError::TooLarge {
                subject: message.subject.clone(),
                size: message.size(),
                limit,
            });
        }
        Ok(message)
    }
}

fn read<A: DeserializeOwned>(subject: &str, answer: &RawMessage) -> Result<A, BusError> {
    serde_json::from_slice(&answer.payload).map_err(|source| BusError::Unreadable {
        what: format!("the answer on {subject}"),
        source,
    })
}

async fn answer<Q, A, F, R>(question: RawQuestion, handler: &F)
where
    Q: DeserializeOwned,
    A: Serialize,
    F: Fn(String, Q) -> R,
    R: Future<Output = Result<A, QueryError>>,
{
    let RawQuestion { message, replier } = question;
    let unreadable = |error: serde_json::Error| {
        QueryError::new(
            "invalid_question",
            format!("the question cannot be read: {error}"),
            "use the same version of zektor on both sides",
        )
    };
    let outcome = match serde_json::from_slice(&message.payload) {
        Ok(question) => handler(message.subject.clone(), question)
            .await
            .and_then(|answer| serde_json::to_vec(&answer).map_err(unreadable)),
        Err(error) => Err(unreadable(error)),
    };
    let mut reply = RawMessage::default();
    match outcome {
        Ok(payload) => reply.payload = payload.into(),
        Err(refusal) => {
            let _ = reply
                .headers
                .insert(REFUSED_HEADER.to_owned(), "1".to_owned());
            reply.payload = serde_json::to_vec(&refusal).unwrap_or_default().into();
        }
    }
    if let Err(error) = replier.reply(reply).await {
        tracing::warn!(
            subject = message.subject,
            error = &error as &dyn std::error::Error,
            "a question could not be answered"
        );
    }
}
