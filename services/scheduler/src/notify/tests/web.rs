//! A web server of a few lines that answers as it is told, and keeps what it took.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// How it answers.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Status(u16),
    HangUp,
    Redirect(String),
}

/// What it answered 200 to.
#[derive(Clone, Debug)]
pub(super) struct Request {
    head: String,
    pub(super) body: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

pub(super) struct Server {
    address: SocketAddr,
    socket: Mutex<Option<TcpSocket>>,
    taken: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Holds a port on which nobody listens yet.
    #[expect(clippy::unused_async, reason = "a socket needs the runtime")]
    pub(super) async fn reserve() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        Server {
            address,
            socket: Mutex::new(Some(socket)),
            taken: Arc::default(),
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Listens: answers these, then 200 for ever.
    pub(super) fn listen(&self, answers: Vec<Answer>) {
        let listener: TcpListener = self
            .socket
            .lock()
            .unwrap()
            .take()
            .unwrap()
            .listen(16)
            .unwrap();
        let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
        let taken = Arc::clone(&self.taken);
        drop(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, taken) = (Arc::clone(&answers), Arc::clone(&taken));
                drop(tokio::spawn(async move {
                    let _ = serve(stream, &answers, &taken).await;
                }));
            }
        }));
    }

    pub(super) fn bodies(&self) -> Vec<serde_json::Value> {
        let taken = self.taken.lock().unwrap();
        taken
            .iter()
            .map(|request| serde_json::from_str(&request.body).unwrap())
            .collect()
    }

    /// Waits until it took so many.
    pub(super) async fn accepted(&self, count: usize) -> Vec<Request> {
        let taken = Arc::clone(&self.taken);
        testkit::wait_until("messages arrive", Duration::from_secs(30), async || {
            taken.lock().unwrap().len() >= count
        })
        .await
        .unwrap();
        self.taken.lock().unwrap().clone()
    }
}

async fn serve(
    stream: TcpStream,
    answers: &Mutex<VecDeque<Answer>>,
    taken: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let request = Request {
            head,
            body: String::new(),
        };
        let length = request
            .header("content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        let mut body = vec![0; length];
        let _ = stream.read_exact(&mut body).await?;
        let answer = answers.lock().unwrap().pop_front();
        let answer = match answer {
            Some(Answer::HangUp) => return Ok(()),
            Some(Answer::Status(status)) => {
                format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n")
            }
            Some(Answer::Redirect(to)) => {
                format!("HTTP/1.1 307 There\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
            }
            None => {
                let body = String::from_utf8_lossy(&body).into_owned();
                taken.lock().unwrap().push(Request { body, ..request });
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()
            }
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}
