//! Notifications: alerts go out to people, by webhook, to Slack, by e-mail.
//!
//! Each configured channel reads the alerts with a durable consumer of its own, so that one that is down holds up no
//! other and nothing is lost meanwhile. What must stay true:
//!
//! - One alert is one message, whichever replica sends it ([`deliver`]); it carries an id for those who get it twice all
//!   the same, because a sender died after sending.
//! - A resolution is sent where its alert was sent, and nowhere else. A new channel begins with what stands now.
//! - What stands is told, whatever its age and the clocks are.
//! - What goes out holds no address and no secret: alerts are scrubbed when they are raised, errors of channels here.

mod deliver;
mod email;
mod http;
mod notice;
mod probe;
mod smtp;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bus::{Bus, BusError};
use events::topology;
use futures::future::try_join_all;
use service::clock::Clock;
use tokio_util::sync::CancellationToken;

pub(crate) use deliver::Deliver;
pub(crate) use email::Email;
pub(crate) use http::{Slack, Webhook};
pub(crate) use notice::{Kind, Notice};

use crate::config::SchedulerConfig;

/// Messages in hand on one channel.
const CONCURRENT_MESSAGES: usize = 4;

/// A way to people.
#[derive(Clone)]
pub(crate) enum Channel {
    Webhook(Webhook),
    Slack(Slack),
    Email(Email),
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// Not a URL that can be posted to.
    #[error("{variable} is not an http(s) URL; set it to the full address that the receiver shows")]
    Url {
        /// The variable.
        variable: &'static str,
    },
    /// One without the others.
    #[error(
        "for e-mail ZEKTOR_NOTIFY_EMAIL_TO, ZEKTOR_NOTIFY_EMAIL_FROM and ZEKTOR_SMTP_URL must all be set"
    )]
    EmailIncomplete,
    /// Not an address.
    #[error(
        "{variable} has {address:?}, which is not an e-mail address; write it as name@host, without a display name"
    )]
    Address {
        /// The variable.
        variable: &'static str,
        /// What stands there.
        address: String,
    },
    /// Not a URL of a mail server.
    #[error(
        "ZEKTOR_SMTP_URL cannot be used; write smtps://user:password@host, smtp://user:password@host:587?tls=required or smtp://host:25"
    )]
    Smtp,
    /// In the clear for everybody between here and there.
    #[error(
        "ZEKTOR_SMTP_URL has a user or password and no TLS; write smtps://... or smtp://...?tls=required, or leave them out"
    )]
    SmtpPassword,
    /// There is no certificate to check.
    #[error(
        "ZEKTOR_SMTP_CA_FILE is set, but ZEKTOR_SMTP_URL uses no TLS; write smtps://... or smtp://...?tls=required"
    )]
    SmtpCaWithoutTls,
    /// Not a file of certificates.
    #[error(
        "ZEKTOR_SMTP_CA_FILE cannot be used ({path}: {reason}); give a file of certificates in PEM"
    )]
    SmtpCa {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The HTTP client could not be made.
    #[error("the HTTP client of notifications cannot be made")]
    Client(#[source] reqwest::Error),
}

/// A message that did not arrive, in words without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SendError(String);

impl SendError {
    pub(crate) fn new(message: &str) -> Self {
        SendError(::alerts::scrub(message))
    }
}

impl Channel {
    /// The channels that are configured.
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub(crate) fn configured(config: &SchedulerConfig) -> Result<Vec<Channel>, ChannelError> {
        let given = |setting: &Option<crate::config::Private>| {
            setting
                .as_ref()
                .map(|private| private.0.trim().to_owned())
                .filter(|text| !text.is_empty())
        };
        let mut channels = Vec::new();
        if let Some(url) = given(&config.notify_webhook_url) {
            let secret = given(&config.notify_webhook_secret);
            channels.push(Channel::Webhook(Webhook::new(&url, secret)?));
        }
        if let Some(url) = given(&config.notify_slack_url) {
            channels.push(Channel::Slack(Slack::new(&url)?));
        }
        let text =
            |setting: &Option<String>| setting.clone().filter(|text| !text.trim().is_empty());
        let (to, from) = (
            text(&config.notify_email_to),
            text(&config.notify_email_from),
        );
        match (to, from, given(&config.smtp_url)) {
            (None, _, _) => {}
            (Some(to), Some(from), Some(url)) => {
                let ca = config.smtp_ca_file.as_deref();
                channels.push(Channel::Email(Email::new(&to, &from, &url, ca)?));
            }
            _ => return Err(ChannelError::EmailIncomplete),
        }
        Ok(channels)
    }

    /// Names its consumer.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Channel::Webhook(_) => "webhook",
            Channel::Slack(_) => "slack",
            Channel::Email(_) => "email",
        }
    }

    /// Where it goes, without what is secret.
    pub(crate) fn target(&self) -> String {
        match self {
            Channel::Webhook(webhook) => webhook.target(),
            Channel::Slack(slack) => slack.target(),
            Channel::Email(email) => email.target(),
        }
    }

    pub(crate) async fn send(&self, notice: &Notice) -> Result<(), SendError> {
        match self {
            Channel::Webhook(webhook) => webhook.send(notice).await,
            Channel::Slack(slack) => slack.send(notice).await,
            Channel::Email(email) => email.send(notice).await,
        }
    }
}

/// Delivers alerts on every channel, and answers the question whether they arrive, until shutdown.
pub(crate) async fn run(
    bus: Bus,
    clock: Arc<dyn Clock>,
    channels: Vec<Channel>,
    shutdown: CancellationToken,
) -> Result<(), BusError> {
    let deliveries = try_join_all(channels.iter().map(|channel| {
        let deliver = Deliver::new(bus.clone(), channel.clone());
        let (bus, shutdown) = (bus.clone(), shutdown.clone());
        async move {
            let spec = topology::notifications(channel.name());
            bus.apply_consumer(&spec).await?;
            tracing::info!(
                channel = channel.name(),
                target = channel.target(),
                "alerts are delivered"
            );
            bus.consume(&spec, CONCURRENT_MESSAGES, Arc::new(deliver), shutdown)
                .await
        }
    }));
    let probe = probe::serve(
        bus.clone(),
        Arc::clone(&clock),
        channels.clone(),
        shutdown.clone(),
    );
    let _ = tokio::try_join!(deliveries, probe)?;
    Ok(())
}
