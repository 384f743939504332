//! Deliveries to real sockets: servers that fail, hang, or are not there, and then are fine.

mod age;
mod email_tls;
mod smtp;
mod web;

use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Outgoing, Sequence};
use chrono::TimeDelta;
use events::event::{AlertRaised, AlertResolved, AlertRule, AlertSeverity};
use events::{BranchName, Event, InstanceName, MessageId, Timestamp};
use service::clock::Clock as _;
use service::{ManualClock, SystemClock};
use tokio_util::sync::CancellationToken;

use super::{Channel, Slack, Webhook};

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000 + minutes * 60, 0).unwrap()
}

fn provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn webhook(url: &str) -> Channel {
    provider();
    Channel::Webhook(Webhook::new(url, Some("s3cret".to_owned())).unwrap())
}

fn slack(url: &str) -> Channel {
    provider();
    Channel::Slack(Slack::new(url).unwrap())
}

fn raised(since: Timestamp) -> Event {
    Event::AlertRaised(AlertRaised {
        instance: InstanceName::new("orders").unwrap(),
        branch: BranchName::main(),
        rule: AlertRule::BackupFailing,
        severity: AlertSeverity::Warning,
        message:
            "2 backups in a row failed <!channel>: postgres://z:geheim@db/x did not answer & hung"
                .to_owned(),
        hint: "Check that PostgreSQL runs; password=geheim".to_owned(),
        since,
        reminder: 0,
    })
}

fn resolved(since: Timestamp) -> Event {
    Event::AlertResolved(AlertResolved {
        instance: InstanceName::new("orders").unwrap(),
        branch: BranchName::main(),
        rule: AlertRule::BackupFailing,
        message: "a backup was completed".to_owned(),
        since,
        resolved_at: since + TimeDelta::minutes(5),
    })
}

/// A bus with alerts on it, and schedulers that deliver them.
struct Place {
    bus: Bus,
    clock: Arc<ManualClock>,
    shutdown: CancellationToken,
}

impl Place {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(at(0)));
        Place {
            bus: Bus::in_memory(),
            clock,
            shutdown: CancellationToken::new(),
        }
    }

    async fn say(&self, id: &str, event: Event) -> Sequence {
        let outgoing = Outgoing::new(event, MessageId::new(id), self.clock.now());
        self.bus.publish(outgoing).await.unwrap()
    }

    fn replica(&self, channel: &Channel) -> tokio::task::JoinHandle<()> {
        let clock = Arc::<ManualClock>::clone(&self.clock);
        let running = super::run(
            self.bus.clone(),
            clock,
            vec![channel.clone()],
            self.shutdown.clone(),
        );
        tokio::spawn(async move { running.await.unwrap() })
    }

    /// Until the channel was told of nothing that is not sent.
    async fn settled(&self) {
        let bucket = self.bus.bucket(events::topology::ALERTS);
        testkit::wait_until(
            "nothing is on its way",
            Duration::from_secs(20),
            async || {
                let told = bucket.under("told").await.unwrap();
                told.iter().all(|told| {
                    let text = String::from_utf8_lossy(told.value.as_deref().unwrap_or_default())
                        .into_owned();
                    text.contains("\"sent\":true")
                })
            },
        )
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_one_message_though_three_replicas_deliver_and_the_receiver_is_flaky() {
    let place = Place::new();
    // A port that refuses at first.
    let server = web::Server::reserve().await;
    let channel = webhook(&server.url("/hook/geheim"));
    let replicas: Vec<_> = (0..3).map(|_| place.replica(&channel)).collect();
    let _ = place.say("alert:1", raised(at(0))).await;
    server.listen(vec![
        web::Answer::Status(500),
        web::Answer::HangUp,
        web::Answer::Status(429),
    ]);
    let first = server.accepted(1).await;
    let _ = place.say("alert:2", resolved(at(0))).await;
    let both = server.accepted(2).await;
    place.settled().await;
    assert_eq!(server.bodies().len(), 2, "{first:?} {both:?}");
    let told: Vec<serde_json::Value> = both
        .iter()
        .map(|r| serde_json::from_str(&r.body).unwrap())
        .collect();
    assert_eq!(
        (&told[0]["event"], &told[0]["id"]),
        (&"alert.raised".into(), &"alert:1".into())
    );
    assert_eq!(told[0]["severity"], "warning");
    assert_eq!(told[0]["since"], "2027-01-15T08:00:00.000000Z");
    assert_eq!(
        (&told[1]["event"], &told[1]["id"]),
        (&"alert.resolved".into(), &"alert:2".into())
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"s3cret");
    for request in &both {
        assert!(!request.body.contains("geheim"), "{}", request.body);
        let signature = request.header("zektor-signature").unwrap();
        let hex = signature.strip_prefix("sha256=").unwrap();
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect();
        ring::hmac::verify(&key, request.body.as_bytes(), &bytes).unwrap();
    }
    assert_eq!(both[0].header("zektor-message-id").unwrap(), "alert:1");
    place.shutdown.cancel();
    for replica in replicas {
        replica.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reminder_is_one_message_and_stands_in_for_an_alert_that_was_never_told() {
    let place = Place::new();
    let reminder = |since, number| match raised(since) {
        Event::AlertRaised(alert) => Event::AlertRaised(AlertRaised {
            reminder: number,
            ..alert
        }),
        other => other,
    };
    // Raised two days before the channel was configured, and told again since.
    let _ = place.say("alert:1", raised(at(0))).await;
    place.clock.set(at(2 * 1440));
    let _ = place.say("alert:2", reminder(at(0), 2)).await;
    let server = web::Server::reserve().await;
    server.listen(vec![web::Answer::Status(500)]);
    let channel = webhook(&server.url("/"));
    let replicas: Vec<_> = (0..3).map(|_| place.replica(&channel)).collect();
    let _ = server.accepted(1).await;
    place.settled().await;
    place.clock.set(at(3 * 1440));
    let _ = place.say("alert:3", reminder(at(0), 3)).await;
    let _ = server.accepted(2).await;
    place.settled().await;
    let _ = place.say("alert:4", resolved(at(0))).await;
    let _ = server.accepted(3).await;
    place.settled().await;
    let told: Vec<_> = server.bodies();
    let words: Vec<_> = told
        .iter()
        .map(|body| {
            (
                body["event"].as_str().unwrap(),
                body["lasts_seconds"].as_i64(),
            )
        })
        .collect();
    assert_eq!(
        words,
        [
            ("alert.reminded", Some(2 * 86_400)),
            ("alert.reminded", Some(3 * 86_400)),
            ("alert.resolved", None)
        ]
    );
    assert_eq!(told[1]["reminder"], 3);
    assert!(told.iter().all(|body| body["since"] == told[0]["since"]));
    place.shutdown.cancel();
    for replica in replicas {
        replica.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_channel_is_not_told_what_is_over() {
    let place = Place::new();
    let _ = place.say("old:1", raised(at(0))).await;
    place.clock.set(at(2 * 1440));
    let _ = place.say("old:2", resolved(at(0))).await;
    let _ = place.say("over:1", raised(at(2880))).await;
    let _ = place.say("over:2", resolved(at(2880))).await;
    let _ = place.say("now:1", raised(at(2881))).await;
    let server = web::Server::reserve().await;
    server.listen(vec![]);
    let replica = place.replica(&webhook(&server.url("/")));
    let _ = server.accepted(1).await;
    let _ = place.say("now:2", resolved(at(2881))).await;
    let _ = server.accepted(2).await;
    place.settled().await;
    let ids: Vec<String> = server
        .bodies()
        .iter()
        .map(|body| body["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, ["now:1", "now:2"]);
    place.shutdown.cancel();
    replica.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let other = web::Server::reserve().await;
    other.listen(vec![]);
    let server = web::Server::reserve().await;
    server.listen(vec![web::Answer::Redirect(other.url("/"))]);
    let notice = super::Notice::test("test:1".to_owned(), at(0));
    let error = webhook(&server.url("/"))
        .send(&notice)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("redirect") && !error.contains(&other.url("/")),
        "{error}"
    );
    assert!(other.bodies().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_gets_text_and_blocks_and_nobody_is_called() {
    let place = Place::new();
    let server = web::Server::reserve().await;
    server.listen(vec![]);
    let replica = place.replica(&slack(&server.url("/services/T0/B0/geheim")));
    let _ = place.say("slack:1", raised(at(0))).await;
    let _ = server.accepted(1).await;
    let body = server.bodies().remove(0);
    assert_eq!(
        body["text"],
        "WARNING orders/main: backup_failing: 2 backups in a row failed &lt;!channel&gt;: postgres://*** did not answer &amp; hung"
    );
    assert_eq!(body["blocks"][0]["type"], "section");
    assert_eq!(body["blocks"][0]["text"]["type"], "mrkdwn");
    assert_eq!(body["blocks"][1]["type"], "context");
    assert!(!body.to_string().contains("geheim"));
    place.shutdown.cancel();
    replica.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_arrives_after_the_server_was_busy() {
    let place = Place::new();
    let sink = smtp::Sink::start(1).await;
    let url = format!("smtp://{}", sink.address);
    let email = super::Email::new(
        "ops@example.org, dba@example.org",
        "zektor@example.org",
        &url,
        None,
    )
    .unwrap();
    let replica = place.replica(&Channel::Email(email));
    let _ = place.say("alert:orders/main/x:1", raised(at(0))).await;
    let mail = sink.mail().await;
    assert_eq!(mail.from, "zektor@example.org");
    assert_eq!(mail.to, ["ops@example.org", "dba@example.org"]);
    for line in [
        "Subject: [zektor] WARNING orders/main: backup_failing",
        "To: ops@example.org, dba@example.org",
        "Message-ID: <alert.orders.main.x.1@example.org>",
        "Auto-Submitted: auto-generated",
    ] {
        assert!(
            mail.head.lines().any(|l| l == line),
            "{line}\n{}",
            mail.head
        );
    }
    assert!(
        mail.text.contains("2 backups in a row failed"),
        "{}",
        mail.text
    );
    assert!(!mail.text.contains("geheim"), "{}", mail.text);
    assert!(mail.head.lines().all(|line| line.len() <= 78) && mail.longest_line <= 78);
    place.settled().await;
    assert_eq!(sink.count(), 1);
    place.shutdown.cancel();
    replica.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_message_says_which_channels_work_and_hides_what_is_secret() {
    provider();
    let bus = Bus::in_memory();
    let fine = web::Server::reserve().await;
    fine.listen(vec![]);
    let down = web::Server::reserve().await;
    let channels = vec![webhook(&fine.url("/geheim")), slack(&down.url("/geheim"))];
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(super::run(
        bus.clone(),
        Arc::new(SystemClock),
        channels,
        shutdown.clone(),
    ));
    let subject = events::subject::scheduler_notify_test();
    let question = events::notifications::NotifyTestQuestion::default();
    let mut answer = events::notifications::NotifyTestAnswer::default();
    testkit::wait_until("somebody answers", Duration::from_secs(20), async || {
        let asked = bus
            .request(&subject, &question, Duration::from_secs(10))
            .await;
        asked.is_ok_and(|told| {
            answer = told;
            true
        })
    })
    .await
    .unwrap();
    let [webhook, slack] = &answer.channels[..] else {
        panic!("two channels");
    };
    assert_eq!(
        (
            webhook.channel.as_str(),
            webhook.target.as_str(),
            &webhook.error
        ),
        ("webhook", "127.0.0.1", &None)
    );
    assert_eq!(slack.error.as_deref(), Some("*** could not be reached"));
    assert_eq!(fine.bodies()[0]["event"], "alert.test");
    assert!(!serde_json::to_string(&answer).unwrap().contains("geheim"));
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[test]
fn settings_that_cannot_be_used_say_so_without_secrets() {
    use crate::config::{Private, SchedulerConfig};
    provider();
    let private = |text: &str| Some(Private(text.to_owned()));
    let none = SchedulerConfig {
        notify_slack_url: private(" "),
        ..SchedulerConfig::default()
    };
    assert!(Channel::configured(&none).unwrap().is_empty());
    let all = SchedulerConfig {
        notify_webhook_url: private("https://hook.example/geheim"),
        notify_slack_url: private("https://slack.example/geheim"),
        notify_email_to: Some("a@b.example".to_owned()),
        notify_email_from: Some("z@b.example".to_owned()),
        smtp_url: private("smtps://z:geheim@mail.example"),
        ..SchedulerConfig::default()
    };
    let names: Vec<_> = Channel::configured(&all)
        .unwrap()
        .iter()
        .map(|c| (c.name(), c.target()))
        .collect();
    assert_eq!(
        names,
        [
            ("webhook", "hook.example".to_owned()),
            ("slack", "slack.example".to_owned()),
            ("email", "a@b.example".to_owned())
        ]
    );
    assert!(!format!("{all:?}").contains("geheim"));
    let wrong = [
        SchedulerConfig {
            notify_webhook_url: private("geheim"),
            ..all.clone()
        },
        SchedulerConfig {
            notify_slack_url: private("file:///geheim"),
            ..all.clone()
        },
        SchedulerConfig {
            smtp_url: private("geheim"),
            ..all.clone()
        },
        SchedulerConfig {
            smtp_url: None,
            ..all.clone()
        },
        SchedulerConfig {
            notify_email_to: Some("Ops <a@b.example>".to_owned()),
            ..all.clone()
        },
        SchedulerConfig {
            notify_email_from: Some("a@b.example\r\nBcc: x@y.example".to_owned()),
            ..all
        },
    ];
    for config in wrong {
        let error = Channel::configured(&config).err().unwrap();
        assert!(!error.to_string().contains("geheim"), "{error}");
    }
}
