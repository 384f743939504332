//! Questions and answers over core NATS.

use std::time::Duration;

use async_nats::{Client, Request, RequestErrorKind, Subscriber};
use async_trait::async_trait;
use futures::StreamExt as _;

use super::{NatsTransport, headers, raw};
use crate::BusError;
use crate::transport::{AskError, Questions, RawMessage, RawQuestion, Replier};

impl NatsTransport {
    pub(super) async fn ask_once(
        &self,
        question: RawMessage,
        wait: Duration,
    ) -> Result<RawMessage, AskError> {
        let client = self.client().map_err(AskError::Bus)?;
        let request = Request::new()
            .headers(headers(&question))
            .payload(question.payload.clone())
            .timeout(Some(wait));
        let call = client.send_request(question.subject.clone(), request);
        match tokio::time::timeout(wait, call).await {
            Ok(Ok(answer)) => Ok(raw(answer)),
            Err(_elapsed) => Err(AskError::Timeout),
            Ok(Err(error)) => Err(match error.kind() {
                RequestErrorKind::TimedOut => AskError::Timeout,
                RequestErrorKind::NoResponders => AskError::NoResponder,
                _ => AskError::Bus(BusError::client(
                    format!("asking on {}", question.subject),
                    error,
                )),
            }),
        }
    }

    pub(super) async fn subscribe(
        &self,
        subject: &str,
        group: &str,
    ) -> Result<Box<dyn Questions>, BusError> {
        let client = self.client()?.clone();
        let subscriber = client
            .queue_subscribe(subject.to_owned(), group.to_owned())
            .await
            .map_err(|error| BusError::client(format!("serving {subject}"), error))?;
        Ok(Box::new(NatsQuestions { client, subscriber }))
    }
}

struct NatsQuestions {
    client: Client,
    subscriber: Subscriber,
}

#[async_trait]
impl Questions for NatsQuestions {
    async fn next(&mut self) -> Option<RawQuestion> {
        loop {
            let message = self.subscriber.next().await?;
            let Some(reply) = message.reply.clone() else {
                continue;
            };
            return Some(RawQuestion {
                message: raw(message),
                replier: Box::new(NatsReplier {
                    client: self.client.clone(),
                    reply,
                }),
            });
        }
    }
}

struct NatsReplier {
    client: Client,
    reply: async_nats::Subject,
}

#[async_trait]
impl Replier for NatsReplier {
    async fn reply(&self, answer: RawMessage) -> Result<(), BusError> {
        self.client
            .publish_with_headers(self.reply.clone(), headers(&answer), answer.payload)
            .await
            .map_err(|error| BusError::client("answering a question", error))
    }
}
