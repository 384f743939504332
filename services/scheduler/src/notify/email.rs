//! E-mail: the message.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::Address;
use lettre::address::Envelope;

use super::smtp::Server;
use super::{ChannelError, Notice, SendError};

/// Of encoded text, as RFC 2045 wants it.
const LINE: usize = 76;

/// Mails to the same people, from the same address, over the same server.
#[derive(Clone)]
pub(crate) struct Email {
    server: Server,
    from: Address,
    to: Vec<Address>,
}

impl Email {
    pub(crate) fn new(
        to: &str,
        from: &str,
        url: &str,
        ca: Option<&Path>,
    ) -> Result<Self, ChannelError> {
        let address = |variable: &'static str, text: &str| {
            let text = text.trim();
            text.parse::<Address>().map_err(|_| ChannelError::Address {
                variable,
                address: text.to_owned(),
            })
        };
        let to = to
            .split(',')
            .filter(|one| !one.trim().is_empty())
            .map(|one| address("ZEKTOR_NOTIFY_EMAIL_TO", one))
            .collect::<Result<Vec<_>, _>>()?;
        if to.is_empty() {
            return Err(ChannelError::EmailIncomplete);
        }
        Ok(Email {
            server: Server::new(url, ca)?,
            from: address("ZEKTOR_NOTIFY_EMAIL_FROM", from)?,
            to,
        })
    }

    pub(crate) fn target(&self) -> String {
        self.recipients()
    }

    fn recipients(&self) -> String {
        let to: Vec<&str> = self.to.iter().map(AsRef::as_ref).collect();
        to.join(", ")
    }

    pub(crate) async fn send(&self, notice: &Notice) -> Result<(), SendError> {
        let envelope = Envelope::new(Some(self.from.clone()), self.to.clone());
        let envelope = envelope.map_err(|error| SendError::new(&error.to_string()))?;
        let mail = self.mail(notice);
        self.server.send(&envelope, mail.as_bytes()).await
    }

    /// A mail of plain text. Headers are ASCII and made of checked names only; the text is encoded, so that nothing in it
    /// can be taken for the conversation's own.
    pub(super) fn mail(&self, notice: &Notice) -> String {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || "-._".contains(c) {
                c
            } else {
                '.'
            }
        };
        let id: String = notice.id.chars().map(plain).collect();
        let host = self.from.domain();
        let date = chrono::DateTime::parse_from_rfc3339(&notice.at)
            .map(|at| at.to_rfc2822())
            .unwrap_or_default();
        let encoded = STANDARD.encode(text(notice));
        let mut lines = String::with_capacity(encoded.len() + encoded.len() / LINE * 2 + 2);
        for (index, character) in encoded.chars().enumerate() {
            if index > 0 && index.is_multiple_of(LINE) {
                lines.push_str("\r\n");
            }
            lines.push(character);
        }
        format!(
            "From: Zektor <{from}>\r\nTo: {to}\r\nSubject: [zektor] {headline}\r\nDate: {date}\r\n\
             Message-ID: <{id}@{host}>\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n{lines}\r\n",
            from = self.from,
            to = self.recipients(),
            headline = notice.headline(),
        )
    }
}

fn text(notice: &Notice) -> String {
    let mut lines = vec![notice.headline(), String::new(), notice.message.clone()];
    lines.extend(notice.hint.clone());
    lines.push(String::new());
    lines.extend(
        notice
            .since
            .iter()
            .map(|since| format!("since:    {since}")),
    );
    lines.extend(
        notice
            .resolved_at
            .iter()
            .map(|at| format!("resolved: {at}")),
    );
    lines.push(format!("said:     {}", notice.at));
    lines.push(String::new());
    lines.join("\r\n")
}
