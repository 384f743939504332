//! Webhooks: the generic one, and the one that Slack invented.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Url, redirect};
use ring::hmac;
use serde_json::{Value, json};

use super::{ChannelError, Kind, Notice, SendError};

/// For the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HMAC-SHA256 of the body, in hexadecimal.
const SIGNATURE_HEADER: &str = "Zektor-Signature";
/// The id in the body.
const ID_HEADER: &str = "Zektor-Message-Id";

/// Posts [`Notice`]s as they are.
#[derive(Clone)]
pub(crate) struct Webhook {
    post: Post,
    secret: Option<hmac::Key>,
}

/// Posts what Slack, Mattermost, Rocket.Chat and others show.
#[derive(Clone)]
pub(crate) struct Slack {
    post: Post,
}

#[derive(Clone)]
struct Post {
    client: Client,
    url: Url,
}

impl Webhook {
    pub(crate) fn new(url: &str, secret: Option<String>) -> Result<Self, ChannelError> {
        Ok(Webhook {
            post: Post::new("ZEKTOR_NOTIFY_WEBHOOK_URL", url)?,
            secret: secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())),
        })
    }

    pub(crate) fn target(&self) -> String {
        self.post.target()
    }

    pub(crate) async fn send(&self, notice: &Notice) -> Result<(), SendError> {
        let body =
            serde_json::to_vec(notice).map_err(|error| SendError::new(&error.to_string()))?;
        let signature = self.secret.as_ref().map(|key| {
            let tag = hmac::sign(key, &body);
            let hex: String = tag
                .as_ref()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            format!("sha256={hex}")
        });
        self.post.send(&notice.id, body, signature).await
    }
}

impl Slack {
    pub(crate) fn new(url: &str) -> Result<Self, ChannelError> {
        Ok(Slack {
            post: Post::new("ZEKTOR_NOTIFY_SLACK_URL", url)?,
        })
    }

    pub(crate) fn target(&self) -> String {
        self.post.target()
    }

    pub(crate) async fn send(&self, notice: &Notice) -> Result<(), SendError> {
        let body = slack_body(notice).to_string().into_bytes();
        self.post.send(&notice.id, body, None).await
    }
}

/// `text` for whoever knows no blocks, and for notifications on phones.
pub(super) fn slack_body(notice: &Notice) -> Value {
    let sign = match notice.event {
        Kind::Raised | Kind::Reminded => ":rotating_light:",
        Kind::Resolved => ":white_check_mark:",
        Kind::Test => ":wave:",
    };
    let headline = escaped(&notice.headline());
    let message = escaped(&notice.message);
    let mut blocks = vec![json!({
        "type": "section",
        "text": {"type": "mrkdwn", "text": format!("{sign} *{headline}*\n{message}")},
    })];
    let mut below: Vec<String> = notice.hint.iter().map(|hint| escaped(hint)).collect();
    below.extend(notice.since.iter().map(|since| format!("since {since}")));
    if !below.is_empty() {
        blocks.push(json!({
            "type": "context",
            "elements": [{"type": "mrkdwn", "text": below.join("\n")}],
        }));
    }
    json!({"text": format!("{headline}: {message}"), "blocks": blocks})
}

/// Slack's three characters: without them a message could name everybody (`<!channel>`) or hold links.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

impl Post {
    fn new(variable: &'static str, url: &str) -> Result<Self, ChannelError> {
        let url = Url::parse(url).map_err(|_| ChannelError::Url { variable })?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(ChannelError::Url { variable });
        }
        let client = Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            // A message is for the host that was named, and the signature too.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("zektor/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(ChannelError::Client)?;
        Ok(Post { client, url })
    }

    fn target(&self) -> String {
        self.url.host_str().unwrap_or_default().to_owned()
    }

    async fn send(
        &self,
        id: &str,
        body: Vec<u8>,
        signature: Option<String>,
    ) -> Result<(), SendError> {
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(ID_HEADER, id)
            .body(body);
        if let Some(signature) = signature {
            request = request.header(SIGNATURE_HEADER, signature);
        }
        let answer = request
            .send()
            .await
            .map_err(|error| refused(&self.target(), error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let host = self.target();
        let what = if status.is_redirection() {
            format!(
                "{host} answered with a redirect ({status}), which is not followed; set the final address"
            )
        } else {
            format!("{host} answered {status}")
        };
        Err(SendError::new(&what))
    }
}

/// In words: the error's own hold the address, which is a secret.
fn refused(host: &str, error: reqwest::Error) -> SendError {
    let what = match () {
        () if error.is_timeout() => "did not answer in time",
        () if error.is_connect() => "could not be reached",
        () => "broke the connection off",
    };
    tracing::debug!(host, error = %error.without_url(), "a message could not be posted");
    SendError::new(&format!("{host} {what}"))
}
