//! Frames: one tag byte, a length, a body. The same for every message after the start-up.
//!
//! Done by hand because `postgres-protocol` does not know `CopyBothResponse`, and because the
//! bodies of WAL and backup data are handed out as slices of the read buffer, never copied.
//!
//! Reading and flushing are cancel-safe: whatever was read or not yet written stays in the buffers
//! here, so a caller may drop either future (in `select!`) and call again.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::{PgError, ServerMessage};

/// The largest read buffer. WAL comes in messages of 128 KiB, backup data in 32 KiB.
const READ_BUFFER_BYTES: usize = 1 << 20;
/// Below this, asking the operating system for more is not worth the call.
const SMALLEST_READ_BYTES: usize = 64 << 10;
/// What a connection begins with, and goes back to: an archiver holds thousands of idle ones.
const QUIET_BUFFER_BYTES: usize = SMALLEST_READ_BYTES;
/// No message may be longer. PostgreSQL's longest here is a WAL message (128 KiB); rows of the
/// catalog and history files are far below this too.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// The same before the other side has proved to be a PostgreSQL.
pub(crate) const MAX_LOGIN_MESSAGE_BYTES: usize = 64 << 10;
const HEADER_BYTES: usize = 5;

/// What a connection runs over: TCP, TLS or a Unix socket.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// One message from the server.
pub(crate) struct Frame {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

/// The framed connection.
pub(crate) struct Wire {
    stream: Box<dyn Duplex>,
    input: BytesMut,
    /// Size of the next read buffer: doubled when a read fills one, halved when none did.
    buffer_bytes: usize,
    filled: bool,
    output: BytesMut,
    /// TLS keeps written bytes back until it is flushed.
    unflushed: bool,
    max_message_bytes: usize,
}

impl Wire {
    pub(crate) fn new(stream: Box<dyn Duplex>) -> Self {
        Wire {
            stream,
            input: BytesMut::new(),
            buffer_bytes: QUIET_BUFFER_BYTES,
            filled: false,
            output: BytesMut::new(),
            unflushed: false,
            max_message_bytes: MAX_LOGIN_MESSAGE_BYTES,
        }
    }

    /// From here on the messages of an ordinary session are accepted.
    pub(crate) fn logged_in(&mut self) {
        self.max_message_bytes = MAX_MESSAGE_BYTES;
    }

    /// Waits for the next message. `during` is for the error's text.
    pub(crate) async fn read(&mut self, during: &'static str) -> Result<Frame, PgError> {
        loop {
            let missing = match self.header()? {
                Some((tag, length)) if self.input.len() >= length => {
                    let mut body = self.input.split_to(length).freeze();
                    body.advance(HEADER_BYTES);
                    return Ok(Frame { tag, body });
                }
                Some((_, length)) => length - self.input.len(),
                None => HEADER_BYTES,
            };
            self.make_room(missing);
            let read = self.stream.read_buf(&mut self.input).await;
            match read {
                Ok(0) => return Err(PgError::closed(during)),
                Ok(_) => self.filled |= self.input.len() == self.input.capacity(),
                Err(source) => {
                    return Err(PgError::Closed {
                        during,
                        source: Some(source),
                    });
                }
            }
        }
    }

    /// Tag and length (with header) of the message that the buffer begins with.
    fn header(&self) -> Result<Option<(u8, usize)>, PgError> {
        let Some((tag, length)) =
            self.input
                .split_first_chunk::<HEADER_BYTES>()
                .map(|(head, _)| {
                    (
                        head[0],
                        u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize,
                    )
                })
        else {
            return Ok(None);
        };
        if length < 4 || length > self.max_message_bytes {
            return Err(PgError::protocol(format!(
                "message {:?} announces {length} bytes; 4 to {} are accepted",
                char::from(tag),
                self.max_message_bytes
            )));
        }
        Ok(Some((tag, length + 1)))
    }

    /// Slices handed out earlier may still hold the old buffer: then a fresh one is begun, and
    /// the old one is freed with its last slice.
    fn make_room(&mut self, missing: usize) {
        let spare = self.input.capacity() - self.input.len();
        let wanted = missing.max(SMALLEST_READ_BYTES);
        if spare >= wanted || self.input.try_reclaim(wanted) {
            return;
        }
        let next = if std::mem::take(&mut self.filled) {
            self.buffer_bytes * 2
        } else {
            self.buffer_bytes / 2
        };
        self.buffer_bytes = next.clamp(QUIET_BUFFER_BYTES, READ_BUFFER_BYTES);
        let capacity = self.buffer_bytes.max(self.input.len() + missing);
        let mut fresh = BytesMut::with_capacity(capacity);
        fresh.extend_from_slice(&self.input);
        self.input = fresh;
    }

    /// Puts a message into the output buffer; `encode` is one of `postgres-protocol`'s.
    pub(crate) fn queue(
        &mut self,
        encode: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), PgError> {
        let before = self.output.len();
        encode(&mut self.output).map_err(|error| {
            self.output.truncate(before);
            PgError::protocol(format!("this cannot be sent to postgresql: {error}"))
        })
    }

    /// Writes what is queued. Dropped half-way, the rest is written by the next call.
    pub(crate) async fn flush(&mut self, during: &'static str) -> Result<(), PgError> {
        let closed = |source| PgError::Closed {
            during,
            source: Some(source),
        };
        while !self.output.is_empty() {
            self.unflushed = true;
            if self
                .stream
                .write_buf(&mut self.output)
                .await
                .map_err(closed)?
                == 0
            {
                return Err(PgError::closed(during));
            }
        }
        if self.unflushed {
            self.stream.flush().await.map_err(closed)?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Tells the server that we go, so that its log stays free of "unexpected EOF".
    pub(crate) async fn terminate(mut self) {
        let queued = self.queue(|buf| {
            postgres_protocol::message::frontend::terminate(buf);
            Ok(())
        });
        if queued.is_ok() && self.flush("closing").await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}

/// Reads the pieces of a message body, never past its end.
pub(crate) struct Body(Bytes);

impl Body {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Body(bytes)
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<Bytes, PgError> {
        if self.0.len() < count {
            return Err(PgError::protocol("a message is shorter than its contents"));
        }
        Ok(self.0.split_to(count))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, PgError> {
        self.take(1).map(|mut bytes| bytes.get_u8())
    }

    pub(crate) fn u16(&mut self) -> Result<u16, PgError> {
        self.take(2).map(|mut bytes| bytes.get_u16())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, PgError> {
        self.take(4).map(|mut bytes| bytes.get_u32())
    }

    pub(crate) fn u64(&mut self) -> Result<u64, PgError> {
        self.take(8).map(|mut bytes| bytes.get_u64())
    }

    pub(crate) fn i64(&mut self) -> Result<i64, PgError> {
        self.take(8).map(|mut bytes| bytes.get_i64())
    }

    /// A zero-terminated text. Only for texts where a replaced character does no harm.
    pub(crate) fn text(&mut self) -> Result<String, PgError> {
        self.cstr()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A zero-terminated text that must be exact.
    pub(crate) fn exact_text(&mut self, what: &str) -> Result<String, PgError> {
        String::from_utf8(self.cstr()?.to_vec())
            .map_err(|_| PgError::protocol(format!("{what} is not valid utf-8")))
    }

    fn cstr(&mut self) -> Result<Bytes, PgError> {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .ok_or_else(|| PgError::protocol("a text in a message has no end"))?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        Ok(text)
    }

    pub(crate) fn rest(self) -> Bytes {
        self.0
    }
}

/// The body of `ErrorResponse` and `NoticeResponse`.
pub(crate) fn server_message(body: Bytes) -> Result<ServerMessage, PgError> {
    let mut body = Body::new(body);
    let mut message = ServerMessage::default();
    loop {
        let field = body.u8()?;
        if field == 0 {
            return Ok(message);
        }
        let text = body.text()?;
        match field {
            // 'S' is localised; 'V' (since 9.6) is not and comes after it.
            b'S' if message.severity.is_empty() => message.severity = text,
            b'V' => message.severity = text,
            b'C' => message.sqlstate = text,
            b'M' => message.message = text,
            b'D' => message.detail = Some(text),
            b'H' => message.hint = Some(text),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[tokio::test]
    async fn frames_split_at_every_byte() {
        let whole = [
            frame(b'd', b"first"),
            frame(b'c', b""),
            frame(b'd', &[7; 300]),
        ]
        .concat();
        for cut in 1..whole.len() {
            let (ours, mut theirs) = tokio::io::duplex(1 << 16);
            let mut wire = Wire::new(Box::new(ours));
            theirs.write_all(&whole[..cut]).await.unwrap();
            let mut seen = Vec::new();
            // The read that has to wait is dropped, as select! would, and must lose nothing.
            while let Ok(Ok(frame)) =
                tokio::time::timeout(std::time::Duration::ZERO, wire.read("testing")).await
            {
                seen.push((frame.tag, frame.body));
            }
            theirs.write_all(&whole[cut..]).await.unwrap();
            while seen.len() < 3 {
                let frame = wire.read("testing").await.unwrap();
                seen.push((frame.tag, frame.body));
            }
            let expected = [
                (b'd', Bytes::from_static(b"first")),
                (b'c', Bytes::new()),
                (b'd', Bytes::from(vec![7; 300])),
            ];
            assert_eq!(seen, expected, "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn refuses_lengths_out_of_bounds() {
        for length in [0_u32, 3, 70_000, u32::MAX] {
            let (ours, mut theirs) = tokio::io::duplex(64);
            theirs
                .write_all(&[&b"d"[..], &length.to_be_bytes()].concat())
                .await
                .unwrap();
            let error = Wire::new(Box::new(ours))
                .read("testing")
                .await
                .err()
                .unwrap();
            assert!(matches!(error, PgError::Protocol(_)), "{length}: {error}");
        }
    }

    #[tokio::test]
    async fn handed_out_slices_stay_valid_and_the_buffer_is_reused() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let mut wire = Wire::new(Box::new(ours));
        wire.logged_in();
        let writer = tokio::spawn(async move {
            for number in 0..100_u8 {
                theirs
                    .write_all(&frame(b'd', &vec![number; 100_000]))
                    .await
                    .unwrap();
            }
        });
        let mut kept = Vec::new();
        for number in 0..100_u8 {
            let frame = wire.read("testing").await.unwrap();
            assert_eq!(frame.body.len(), 100_000);
            if number % 10 == 0 {
                kept.push((number, frame.body));
            }
            assert!(wire.input.capacity() <= READ_BUFFER_BYTES);
        }
        writer.await.unwrap();
        for (number, body) in kept {
            assert!(body.iter().all(|byte| *byte == number));
        }
    }

    #[test]
    fn truncated_bodies_are_errors() {
        let whole = b"SERROR\0VERROR\0C58P01\0Mgone\0Ddetail\0Hhint\0\0";
        let message = server_message(Bytes::from_static(whole)).unwrap();
        assert_eq!(message.to_string(), "ERROR 58P01: gone; detail; hint");
        for end in 0..whole.len() {
            assert!(
                server_message(Bytes::from_static(&whole[..end])).is_err(),
                "{end}"
            );
        }
    }
}
