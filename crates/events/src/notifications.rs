//! The question "do the notifications arrive?" and its answer.
//!
//! Asked on [`crate::subject::scheduler_notify_test`]: a test message goes through every configured channel.

use serde::{Deserialize, Serialize};

/// Sends a test message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyTestQuestion {}

/// How it went, by channel; empty when no channel is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyTestAnswer {
    /// The channels.
    pub channels: Vec<ChannelTest>,
}

/// How it went on one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelTest {
    /// `webhook`, `slack` or `email`.
    pub channel: String,
    /// Where it goes, without what is secret: a host, or addresses.
    pub target: String,
    /// Why it could not be delivered; it was when absent.
    pub error: Option<String>,
}
