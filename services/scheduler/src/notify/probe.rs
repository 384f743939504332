//! "Do the notifications arrive?": a test message through every channel.

use std::sync::Arc;

use bus::{Bus, BusError};
use events::notifications::{ChannelTest, NotifyTestAnswer, NotifyTestQuestion};
use events::subject;
use futures::future::join_all;
use service::clock::Clock;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Channel, Notice};

pub(super) async fn serve(
    bus: Bus,
    clock: Arc<dyn Clock>,
    channels: Vec<Channel>,
    shutdown: CancellationToken,
) -> Result<(), BusError> {
    let answer = move |_subject: String, _question: NotifyTestQuestion| {
        let (clock, channels) = (Arc::clone(&clock), channels.clone());
        async move { Ok(probe(&*clock, &channels).await) }
    };
    bus.serve(
        &subject::scheduler_notify_test(),
        "scheduler",
        answer,
        shutdown,
    )
    .await
}

async fn probe(clock: &dyn Clock, channels: &[Channel]) -> NotifyTestAnswer {
    let notice = Notice::test(format!("test:{}", Uuid::now_v7()), clock.now());
    let tests = channels.iter().map(|channel| {
        let notice = &notice;
        async move {
            let sent = channel.send(notice).await;
            ChannelTest {
                channel: channel.name().to_owned(),
                target: channel.target(),
                error: sent.err().map(|error| error.to_string()),
            }
        }
    });
    NotifyTestAnswer {
        channels: join_all(tests).await,
    }
}
