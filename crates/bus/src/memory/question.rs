//! Questions within one process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::BusError;
use crate::subjects::covers;
use crate::transport::{AskError, Questions, RawMessage, RawQuestion, Replier};

/// Questions that may wait for one service.
const WAITING: usize = 1024;

/// Who answers what.
#[derive(Default)]
pub(super) struct Board {
    services: Mutex<Vec<Service>>,
    turn: AtomicUsize,
}

struct Service {
    subject: String,
    group: String,
    questions: mpsc::Sender<RawQuestion>,
}

impl Board {
    pub(super) fn serve(&self, subject: &str, group: &str) -> Box<dyn Questions> {
        let (questions, receiver) = mpsc::channel(WAITING);
        self.services
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Service {
                subject: subject.to_owned(),
                group: group.to_owned(),
                questions,
            });
        Box::new(MemoryQuestions(receiver))
    }

    pub(super) async fn ask(
        &self,
        question: RawMessage,
        wait: Duration,
    ) -> Result<RawMessage, AskError> {
        let mut answers = Vec::new();
        for service in self.chosen(&question.subject) {
            let (reply, answer) = oneshot::channel();
            let question = RawQuestion {
                message: question.clone(),
                replier: Box::new(MemoryReplier(Mutex::new(Some(reply)))),
            };
            if service.try_send(question).is_ok() {
                answers.push(answer);
            }
        }
        if answers.is_empty() {
            return Err(AskError::NoResponder);
        }
        // The first answer counts; a service that ended without one is as one that is silent.
        let first = futures::future::select_ok(answers);
        match tokio::time::timeout(wait, first).await {
            Ok(Ok((answer, _))) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(AskError::Timeout),
        }
    }

    /// One service of every group, in turn.
    fn chosen(&self, subject: &str) -> Vec<mpsc::Sender<RawQuestion>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.retain(|service| !service.questions.is_closed());
        let mut groups = std::collections::BTreeMap::<&str, Vec<&Service>>::new();
        for service in services.iter() {
            if covers(&service.subject, subject) {
                groups.entry(&service.group).or_default().push(service);
            }
        }
        groups
            .values()
            .filter_map(|group| group.get(turn % group.len()))
            .map(|service| service.questions.clone())
            .collect()
    }
}

struct MemoryQuestions(mpsc::Receiver<RawQuestion>);

#[async_trait]
impl Questions for MemoryQuestions {
    async fn next(&mut self) -> Option<RawQuestion> {
        self.0.recv().await
    }
}

struct MemoryReplier(Mutex<Option<oneshot::Sender<RawMessage>>>);

#[async_trait]
impl Replier for MemoryReplier {
    async fn reply(&self, answer: RawMessage) -> Result<(), BusError> {
        let reply = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reply) = reply {
            // Nobody waits any more: as with NATS, that is not the answerer's concern.
            let _gone = reply.send(answer);
        }
        Ok(())
    }
}
