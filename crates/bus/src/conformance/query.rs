//! Questions and answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{in_time, scenarios};
use crate::{Bus, QueryError, RequestError};

scenarios!(
    a_question_is_answered,
    a_group_shares_its_questions,
    shutdown_answers_what_was_asked,
);

const WAIT: Duration = Duration::from_secs(10);
const SUBJECT: &str = "zektor.query.archiver.position.orders.main";

/// Asks until somebody is there to answer.
async fn ask(bus: &Bus, subject: &str, question: u32) -> Result<u32, RequestError> {
    in_time("somebody to answer", async {
        loop {
            match bus.request(subject, &question, WAIT).await {
                Err(RequestError::NoResponder { .. }) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                answer => return answer,
            }
        }
    })
    .await
}

async fn a_question_is_answered(bus: Bus) {
    let nobody: Result<u32, _> = bus.request(SUBJECT, &1, WAIT).await;
    assert!(
        matches!(nobody, Err(RequestError::NoResponder { .. })),
        "{nobody:?}"
    );
    let shutdown = CancellationToken::new();
    let service = tokio::spawn({
        let (bus, shutdown) = (bus.clone(), shutdown.clone());
        async move {
            let handler = |subject: String, question: u32| async move {
                assert_eq!(subject, SUBJECT);
                match question {
                    0 => Err(QueryError::new("zero", "zero is no question", "ask more")),
                    9 => std::future::pending().await,
                    more => Ok(more + 1),
                }
            };
            let wildcard = "zektor.query.archiver.position.*.*";
            bus.serve(wildcard, "archiver", handler, shutdown).await
        }
    });
    assert_eq!(ask(&bus, SUBJECT, 41).await.unwrap(), 42);
    let Err(RequestError::Refused(refusal)) = ask(&bus, SUBJECT, 0).await else {
        panic!("a refusal");
    };
    assert_eq!(
        (refusal.code.as_str(), refusal.hint.as_str()),
        ("zero", "ask more")
    );
    let silence: Result<u32, _> = bus.request(SUBJECT, &9, Duration::from_millis(200)).await;
    assert!(
        matches!(silence, Err(RequestError::Timeout { .. })),
        "{silence:?}"
    );
    let nonsense: Result<u32, _> = bus.request(SUBJECT, &"nonsense", WAIT).await;
    assert!(
        matches!(&nonsense, Err(RequestError::Refused(refusal)) if refusal.code == "invalid_question"),
        "{nonsense:?}"
    );
    service.abort();
}

async fn a_group_shares_its_questions(bus: Bus) {
    let answered = Arc::new(AtomicUsize::new(0));
    let shutdown = CancellationToken::new();
    for _ in 0..3 {
        let (bus, shutdown, answered) = (bus.clone(), shutdown.clone(), Arc::clone(&answered));
        drop(tokio::spawn(async move {
            let handler = move |_: String, question: u32| {
                let _ = answered.fetch_add(1, Ordering::SeqCst);
                async move { Ok::<_, QueryError>(question) }
            };
            bus.serve(SUBJECT, "archiver", handler, shutdown).await
        }));
    }
    for question in 0..20 {
        assert_eq!(ask(&bus, SUBJECT, question).await.unwrap(), question);
    }
    assert_eq!(answered.load(Ordering::SeqCst), 20);
    shutdown.cancel();
}

async fn shutdown_answers_what_was_asked(bus: Bus) {
    let shutdown = CancellationToken::new();
    let (began, mut begun) = tokio::sync::mpsc::channel::<()>(1);
    let service = tokio::spawn({
        let (bus, shutdown) = (bus.clone(), shutdown.clone());
        async move {
            let handler = move |_: String, question: u32| {
                let began = began.clone();
                async move {
                    began.send(()).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    Ok::<_, QueryError>(question)
                }
            };
            bus.serve(SUBJECT, "archiver", handler, shutdown).await
        }
    });
    let asking = tokio::spawn({
        let bus = bus.clone();
        async move { ask(&bus, SUBJECT, 7).await }
    });
    in_time("the question", begun.recv()).await.unwrap();
    shutdown.cancel();
    assert_eq!(asking.await.unwrap().unwrap(), 7);
    in_time("the service", service).await.unwrap().unwrap();
    let nobody: Result<u32, _> = bus.request(SUBJECT, &1, WAIT).await;
    assert!(
        matches!(nobody, Err(RequestError::NoResponder { .. })),
        "{nobody:?}"
    );
}
