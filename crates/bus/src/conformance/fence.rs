//! Who may speak about a backup.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use events::topology::{self, ConsumerSpec, StreamSpec};

use super::{Backup, scenarios};
use crate::transport::{
    AskError, PublishError, Questions, RawDelivery, RawMessage, RawStored, Reader, Receipt, Start,
    Topology, Transport,
};
use crate::{Bus, BusError, Fence, FenceError, Places, Sequence, StreamState};

scenarios!(
    a_second_request_is_refused,
    a_takeover_makes_the_first_token_useless,
    after_completed_nobody_adds_failed,
    other_backups_do_not_disturb,
    a_lost_answer_is_recognised,
    a_lost_answer_is_recognised_when_the_server_has_forgotten_the_id,
    after_a_lost_answer_the_attempt_may_say_something_else,
    of_two_workers_with_the_same_message_id_one_wins,
    an_id_that_was_used_before_is_an_error,
    the_same_request_twice_is_one,
);

async fn a_second_request_is_refused(bus: Bus) {
    let backup = Backup::new();
    let fence = backup.fence();
    let request = backup.says("backup.requested");
    let first = bus
        .publish_expecting(request.clone(), &fence, Sequence::NONE)
        .await
        .unwrap();
    let second = backup.says("backup.requested");
    let refused = bus.publish_expecting(second, &fence, Sequence::NONE).await;
    let Err(FenceError::Lost { head, by, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((head, by), (first, Some(request.id)));
    let last = bus.last_on(&fence).await.unwrap().unwrap();
    assert_eq!(last.sequence, first);
    assert_eq!(last.envelope.message, request.message);
}

async fn requested(bus: &Bus, backup: &Backup) -> Sequence {
    let request = backup.says("backup.requested");
    bus.publish_expecting(request, &backup.fence(), Sequence::NONE)
        .await
        .unwrap()
}

async fn take(bus: &Bus, backup: &Backup, last: Sequence) -> Result<Fence, FenceError> {
    Fence::take(bus, backup.fence(), last, backup.says("backup.started")).await
}

async fn a_takeover_makes_the_first_token_useless(bus: Bus) {
    let backup = Backup::new();
    let request = requested(&bus, &backup).await;
    let mut first = take(&bus, &backup, request).await.unwrap();
    assert!(matches!(
        take(&bus, &backup, request).await,
        Err(FenceError::Lost { .. })
    ));
    let mut second = take(&bus, &backup, first.token()).await.unwrap();
    let late = first.publish(backup.says("backup.completed")).await;
    assert!(matches!(late, Err(FenceError::Lost { .. })), "{late:?}");
    let token = second
        .publish(backup.says("backup.completed"))
        .await
        .unwrap();
    assert_eq!(second.token(), token);
}

async fn after_completed_nobody_adds_failed(bus: Bus) {
    let backup = Backup::new();
    let request = requested(&bus, &backup).await;
    let mut fence = take(&bus, &backup, request).await.unwrap();
    let started = fence.token();
    let completed = fence
        .publish(backup.says("backup.completed"))
        .await
        .unwrap();
    for stale in [Sequence::NONE, request, started] {
        let failed = backup.says("backup.failed");
        let refused = bus.publish_expecting(failed, &backup.fence(), stale).await;
        assert!(
            matches!(refused, Err(FenceError::Lost { .. })),
            "{refused:?}"
        );
    }
    let last = bus.last_on(&backup.fence()).await.unwrap().unwrap();
    assert_eq!(last.sequence, completed);
}

async fn other_backups_do_not_disturb(bus: Bus) {
    let (one, other) = (Backup::new(), Backup::new());
    let mut fence = {
        let request = requested(&bus, &one).await;
        take(&bus, &one, request).await.unwrap()
    };
    let request = requested(&bus, &other).await;
    let _ = take(&bus, &other, request).await.unwrap();
    let _ = fence.publish(one.says("backup.completed")).await.unwrap();
    assert!(bus.last_on(&Backup::new().fence()).await.unwrap().is_none());
}

async fn a_lost_answer_is_recognised(bus: Bus) {
    let backup = Backup::new();
    let request = requested(&bus, &backup).await;
    let (bus, network) = losing_answers(&bus);
    network.lose(1);
    let mut fence = take(&bus, &backup, request).await.unwrap();
    network.lose(2);
    let completed = fence
        .publish(backup.says("backup.completed"))
        .await
        .unwrap();
    let last = bus.last_on(&backup.fence()).await.unwrap().unwrap();
    assert_eq!(last.sequence, completed);
    assert_eq!(completed, fence.token());
}

async fn a_lost_answer_is_recognised_when_the_server_has_forgotten_the_id(bus: Bus) {
    let window = Duration::from_millis(200);
    let forgetful = Topology {
        streams: topology::streams()
            .into_iter()
            .map(|spec| StreamSpec {
                duplicate_window: window,
                ..spec
            })
            .collect(),
        consumers: Vec::new(),
        buckets: Vec::new(),
    };
    bus.transport.apply(&forgetful).await.unwrap();
    let backup = Backup::new();
    let request = requested(&bus, &backup).await;
    let (mut bus, network) = losing_answers(&bus);
    bus.patience = Duration::ZERO;
    let mut fence = take(&bus, &backup, request).await.unwrap();
    network.lose(1);
    let completed = backup.says("backup.completed");
    let lost = fence.publish(completed.clone()).await;
    assert!(matches!(lost, Err(FenceError::Bus(_))), "{lost:?}");
    // Only time makes the server forget.
    tokio::time::sleep(window * 10).await;
    let token = fence.publish(completed).await.unwrap();
    let last = bus.last_on(&backup.fence()).await.unwrap().unwrap();
    assert_eq!(last.sequence, token);
}

/// What it said is stored, so the fence is its own; but not if somebody took it over after that.
async fn after_a_lost_answer_the_attempt_may_say_something_else(bus: Bus) {
    let backup = Backup::new();
    let request = requested(&bus, &backup).await;
    let (mut bus, network) = losing_answers(&bus);
    bus.patience = Duration::ZERO;
    let mut fence = take(&bus, &backup, request).await.unwrap();
    let unheard = async |fence: &mut Fence| {
        network.lose(1);
        let said = fence.publish(backup.says("backup.started")).await;
        assert!(matches!(said, Err(FenceError::Bus(_))), "{said:?}");
    };
    unheard(&mut fence).await;
    let token = fence.publish(backup.says("backup.started")).await.unwrap();
    let last = bus.last_on(&backup.fence()).await.unwrap().unwrap();
    assert_eq!((last.sequence, fence.token()), (token, token));

    unheard(&mut fence).await;
    let head = bus.last_on(&backup.fence()).await.unwrap().unwrap();
    let _successor = take(&bus, &backup, head.sequence).await.unwrap();
    let late = fence.publish(backup.says("backup.completed")).await;
    assert!(matches!(late, Err(FenceError::Lost { .. })), "{late:?}");
}

async fn of_two_workers_with_the_same_message_id_one_wins(bus: Bus) {
    let backup = Backup::new();
    let request = requested(&bus, &backup).await;
    let started = backup.says_as("backup.started", "the same for all");
    let first = Fence::take(&bus, backup.fence(), request, started.clone()).await;
    let second = Fence::take(&bus, backup.fence(), request, started).await;
    assert!(first.is_ok());
    assert!(matches!(second, Err(FenceError::Lost { .. })), "{second:?}");
}

async fn an_id_that_was_used_before_is_an_error(bus: Bus) {
    let backup = Backup::new();
    let request = requested(&bus, &backup).await;
    let started = backup.says_as("backup.started", "used twice");
    let first = Fence::take(&bus, backup.fence(), request, started.clone())
        .await
        .unwrap();
    let again = Fence::take(&bus, backup.fence(), first.token(), started).await;
    assert!(
        matches!(
            again,
            Err(FenceError::Bus(BusError::MessageIdReused { .. }))
        ),
        "{again:?}"
    );
}

async fn the_same_request_twice_is_one(bus: Bus) {
    let backup = Backup::new();
    let request = backup.says("backup.requested");
    let fence = backup.fence();
    let publish = || bus.publish_expecting(request.clone(), &fence, Sequence::NONE);
    assert_eq!(publish().await.unwrap(), publish().await.unwrap());
    let plain = bus.publish(request.clone()).await.unwrap();
    assert_eq!(plain, publish().await.unwrap());
}

/// The same bus behind a network that loses answers of publications.
fn losing_answers(bus: &Bus) -> (Bus, Arc<LosesAnswers>) {
    let network = Arc::new(LosesAnswers {
        inner: Arc::clone(&bus.transport),
        left: AtomicUsize::new(0),
    });
    let bus = Bus {
        transport: Arc::clone(&network) as Arc<dyn Transport>,
        ..bus.clone()
    };
    (bus, network)
}

struct LosesAnswers {
    inner: Arc<dyn Transport>,
    left: AtomicUsize,
}

impl LosesAnswers {
    fn lose(&self, answers: usize) {
        self.left.store(answers, Ordering::SeqCst);
    }
}

#[async_trait]
impl Transport for LosesAnswers {
    async fn publish(&self, message: &RawMessage) -> Result<Receipt, PublishError> {
        let answer = self.inner.publish(message).await;
        let lost = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        match lost {
            Ok(_) => Err(PublishError::Bus(BusError::Timeout {
                what: "a lost answer".to_owned(),
                after: Duration::ZERO,
            })),
            Err(_) => answer,
        }
    }

    fn ready(&self) -> Result<(), BusError> {
        self.inner.ready()
    }

    fn max_payload(&self) -> usize {
        self.inner.max_payload()
    }

    async fn apply(&self, topology: &Topology) -> Result<(), BusError> {
        self.inner.apply(topology).await
    }

    async fn places(&self, spec: &ConsumerSpec) -> Result<Places, BusError> {
        self.inner.places(spec).await
    }

    async fn last_on(&self, stream: &str, filter: &str) -> Result<Option<RawStored>, BusError> {
        self.inner.last_on(stream, filter).await
    }

    async fn stream_state(&self, stream: &str) -> Result<StreamState, BusError> {
        self.inner.stream_state(stream).await
    }

    async fn pull(
        &self,
        spec: &ConsumerSpec,
        wait: Duration,
    ) -> Result<Option<RawDelivery>, BusError> {
        self.inner.pull(spec, wait).await
    }

    async fn read(
        &self,
        stream: &str,
        filters: &[String],
        start: Start,
    ) -> Result<Box<dyn Reader>, BusError> {
        self.inner.read(stream, filters, start).await
    }

    async fn ask(&self, question: RawMessage, wait: Duration) -> Result<RawMessage, AskError> {
        self.inner.ask(question, wait).await
    }

    async fn serve(&self, subject: &str, group: &str) -> Result<Box<dyn Questions>, BusError> {
        self.inner.serve(subject, group).await
    }
}
