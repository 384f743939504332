//! Somebody hears of it when backups fail, once, and once more when they do not any longer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::Stack;
use serde_json::Value;
use testkit::postgres::{Postgres, StopMode};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A failed backup is tried again a few times before it is given up.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(240);
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// Whoever is told: takes every post.
struct Receiver {
    address: SocketAddr,
    told: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let told: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = Arc::clone(&told);
        drop(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                drop(tokio::spawn(async move { take(stream, &kept).await }));
            }
        }));
        Ok(Receiver { address, told })
    }

    fn about(&self, rule: &str) -> Vec<Value> {
        let told = self
            .told
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        told.iter()
            .filter(|one| one["rule"] == rule)
            .cloned()
            .collect()
    }

    async fn was_told(&self, rule: &str, times: usize) -> Result<Vec<Value>> {
        let what = format!("{rule} was told {times} times");
        testkit::wait_until(&what, TOLD_WITHIN, async || self.about(rule).len() >= times).await?;
        Ok(self.about(rule))
    }
}

async fn take(stream: TcpStream, told: &Mutex<Vec<Value>>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim().to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        let _ = stream.read_exact(&mut body).await?;
        told.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(serde_json::from_slice(&body)?);
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_message_that_does_not_arrive_is_an_error_for_programs_too() -> Result<()> {
    // Held, so that nobody else listens there.
    let held = tokio::net::TcpSocket::new_v4()?;
    held.bind("127.0.0.1:0".parse()?)?;
    let hook = format!("http://{}/hook", held.local_addr()?);
    let stack = Stack::builder()
        .env("ZEKTOR_NOTIFY_WEBHOOK_URL", hook)
        .start()
        .await?;
    let tested = stack.zektor(&["alert", "test"]).await?;
    ensure!(tested.code == 1, "code {}: {}", tested.code, tested.json);
    let (error, channel) = (&tested.json["error"], &tested.json["channels"][0]);
    ensure!(error["code"] == "not_delivered", "{}", tested.json);
    for words in [&error["message"], &error["hint"], &channel["error"]] {
        ensure!(
            words.as_str().is_some_and(|words| !words.is_empty()),
            "{}",
            tested.json
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_is_told_once_and_again_when_it_is_back() -> Result<()> {
    let mut postgres = Postgres::builder().start().await?;
    let receiver = Receiver::start().await?;
    let hook = format!("http://{}/hook", receiver.address);
    let stack = Stack::builder()
        .env("ZEKTOR_NOTIFY_WEBHOOK_URL", hook)
        .start()
        .await?;
    stack.register("orders", &postgres).await?;
    let _first = stack.back_up("orders").await?;

    let tested = stack.zektor_ok(&["alert", "test"]).await?;
    ensure!(tested["channels"][0]["error"].is_null(), "{tested}");

    postgres.stop(StopMode::Fast).await?;
    for _ in 0..2 {
        let failed = stack.zektor(&["backup", "create", "orders", "--wait"]);
        let failed = tokio::time::timeout(GIVEN_UP_WITHIN, failed)
            .await
            .context("a backup of nothing did not end")??;
        ensure!(
            failed.code != 0,
            "a backup of a server that is down: {}",
            failed.json
        );
    }
    let told = receiver.was_told("backup_failing", 1).await?;
    ensure!(
        told[0]["event"] == "alert.raised" && told[0]["instance"] == "orders",
        "{}",
        told[0]
    );
    let message = told[0]["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains("the connection to PostgreSQL"),
        "{message}"
    );
    ensure!(
        !told[0].to_string().contains(postgres.password()),
        "the password is in it"
    );
    let stands = async || -> Result<bool> {
        let list = stack.zektor_ok(&["alert", "list", "orders"]).await?;
        let alerts = list["alerts"].as_array().cloned().unwrap_or_default();
        Ok(alerts.iter().any(|alert| alert["rule"] == "backup_failing"))
    };
    testkit::wait_until("the alert is listed", TOLD_WITHIN, async || {
        stands().await.unwrap_or(false)
    })
    .await?;

    postgres.start_again().await?;
    let _good = stack.back_up("orders").await?;
    let told = receiver.was_told("backup_failing", 2).await?;
    ensure!(
        told.len() == 2 && told[1]["event"] == "alert.resolved",
        "{told:?}"
    );
    ensure!(told[1]["since"] == told[0]["since"], "{told:?}");
    testkit::wait_until("it is listed no more", TOLD_WITHIN, async || {
        !stands().await.unwrap_or(true)
    })
    .await?;
    let all = stack
        .zektor_ok(&["alert", "list", "orders", "--all"])
        .await?;
    ensure!(all["alerts"][0]["resolved_at"].is_string(), "{all}");
    Ok(())
}
