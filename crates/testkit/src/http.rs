//! One HTTP/1.1 request by hand: enough to ask a server for its health, its metrics, or to store a byte.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A server that does not answer in this time is as good as down.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body as it came on the wire; chunk lengths are not taken out.
    pub body: String,
}

/// `GET http://<address><path>`.
///
/// # Errors
/// When the server cannot be reached, does not answer in ten seconds, or does not speak HTTP.
pub async fn get(address: &str, path: &str) -> Result<Answer> {
    request("GET", address, path, "").await
}

pub(crate) async fn request(method: &str, address: &str, path: &str, body: &str) -> Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let what = || format!("{method} http://{address}{path}");
    let answer = timeout(ANSWER_TIMEOUT, exchange)
        .await
        .with_context(what)?
        .with_context(what)?;
    parse(&String::from_utf8_lossy(&answer)).with_context(what)
}

fn parse(answer: &str) -> Result<Answer> {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("the answer ended before its body");
    };
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok(Answer {
        status: status.context("no status line")?,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_broken_ones_refused() {
        let answer = parse("HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\nnot yet\n").unwrap();
        assert_eq!(
            answer,
            Answer {
                status: 503,
                body: "not yet\n".to_owned()
            }
        );
        assert!(parse("HTTP/1.1 200 OK\r\nA: b\r\n").is_err());
        assert!(parse("hello\r\n\r\n").is_err());
    }
}
