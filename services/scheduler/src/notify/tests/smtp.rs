//! A mail server of a few lines: it speaks enough SMTP to take a mail.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A mail, decoded.
#[derive(Clone, Debug, Default)]
pub(super) struct Mail {
    pub(super) from: String,
    pub(super) to: Vec<String>,
    pub(super) head: String,
    pub(super) text: String,
    pub(super) longest_line: usize,
}

pub(super) struct Sink {
    pub(super) address: SocketAddr,
    mails: Arc<Mutex<Vec<Mail>>>,
}

impl Sink {
    /// Is busy for the first so many.
    pub(super) async fn start(busy: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mails: Arc<Mutex<Vec<Mail>>> = Arc::default();
        let taken = Arc::clone(&mails);
        drop(tokio::spawn(async move {
            let mut left = busy;
            while let Ok((stream, _)) = listener.accept().await {
                let (busy, taken) = (left > 0, Arc::clone(&taken));
                left = left.saturating_sub(1);
                drop(tokio::spawn(async move {
                    if let Ok(Some(mail)) = converse(stream, busy).await {
                        taken.lock().unwrap().push(mail);
                    }
                }));
            }
        }));
        Sink { address, mails }
    }

    pub(super) fn count(&self) -> usize {
        self.mails.lock().unwrap().len()
    }

    pub(super) async fn mail(&self) -> Mail {
        testkit::wait_until("a mail arrives", Duration::from_secs(30), async || {
            self.count() > 0
        })
        .await
        .unwrap();
        self.mails.lock().unwrap()[0].clone()
    }
}

async fn converse(stream: TcpStream, busy: bool) -> std::io::Result<Option<Mail>> {
    let mut stream = BufReader::new(stream);
    let mut mail = Mail::default();
    let mut taken = None;
    let greeting: &[u8] = if busy {
        b"421 too busy\r\n"
    } else {
        b"220 sink\r\n"
    };
    stream.write_all(greeting).await?;
    if busy {
        return Ok(None);
    }
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let command = line.trim_end().to_owned();
        line.clear();
        let address = || {
            command
                .split(['<', '>'])
                .nth(1)
                .unwrap_or_default()
                .to_owned()
        };
        let upper = command.to_uppercase();
        let answer: &[u8] = if upper.starts_with("EHLO") {
            b"250-sink\r\n250 8BITMIME\r\n"
        } else if upper.starts_with("MAIL FROM") {
            mail.from = address();
            b"250 fine\r\n"
        } else if upper.starts_with("RCPT TO") {
            mail.to.push(address());
            b"250 fine\r\n"
        } else if upper == "DATA" {
            stream.write_all(b"354 go on\r\n").await?;
            taken = Some(read_mail(&mut stream, mail.clone()).await?);
            b"250 taken\r\n"
        } else if upper == "QUIT" {
            stream.write_all(b"221 bye\r\n").await?;
            break;
        } else {
            b"250 fine\r\n"
        };
        stream.write_all(answer).await?;
        // The mail is taken with this answer, whether the other side says goodbye or not.
        if taken.is_some() {
            break;
        }
    }
    Ok(taken)
}

async fn read_mail(stream: &mut BufReader<TcpStream>, mut mail: Mail) -> std::io::Result<Mail> {
    let (mut body, mut in_body) = (String::new(), false);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 && line != ".\r\n" {
        mail.longest_line = mail.longest_line.max(line.len());
        match (in_body, line.as_str()) {
            (false, "\r\n") => in_body = true,
            (false, head) => mail.head.push_str(head),
            (true, text) => body.push_str(text.trim_end()),
        }
        line.clear();
    }
    let text = base64::engine::general_purpose::STANDARD
        .decode(body)
        .unwrap_or_default();
    mail.text = String::from_utf8_lossy(&text).into_owned();
    Ok(mail)
}
