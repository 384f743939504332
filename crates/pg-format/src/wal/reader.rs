//! The incremental validator of a WAL stream.
//!
//! Bytes come in pieces of any length that respect no border; what is true after them does not
//! depend on how they were cut. A reader that found an error stays in it: nothing after the error
//! is looked at, and [`WalReader::validated_end`] stays before it.
//!
//! Memory is bounded: a record of a gigabyte is checked as it passes and only its beginning is
//! kept.

mod config;
mod partial;

use partial::PartialRecord;

pub use config::{WalReaderConfig, WalReaderConfigError};

use super::body;
use super::error::{WalError, WalErrorKind};
use super::page::{LONG_HEADER_BYTES, WalPageHeader};
use super::record::{ALIGNMENT, HEADER_BYTES, RecordHeader, WalRecord};
use crate::Lsn;

/// At least this much of a record's body is kept until it is complete, and at least a page, so
/// that what visitors see does not depend on how the bytes were cut. Block references take at most
/// 1 kB of it; full-page images of two blocks stand before the main data of a change to a row.
const KEPT_BODY_BYTES: u64 = 32 << 10;
/// So much is kept of the records that end or prepare a transaction: what they say of 80,000
/// dropped files.
const KEPT_TRANSACTION_BYTES: usize = 1 << 20;

/// Validates contiguous WAL, fed in pieces of any length.
///
/// Of a record that comes in part 32 KiB are kept until it is complete (64 KiB with WAL pages of
/// that size), so full-page images and what stands behind them; 1 MiB of records that end or
/// prepare a transaction. That is all the memory a reader holds, whatever it is fed, beside the
/// timeline history it was given; between records it is the 32 KiB again. A record that lies
/// wholly within a page and a piece is not copied at all.
#[derive(Debug)]
pub struct WalReader {
    config: WalReaderConfig,
    position: Lsn,
    validated_end: Lsn,
    expect: Expect,
    page_header: [u8; LONG_HEADER_BYTES],
    /// Bytes of `page_header` that have come; zero between headers.
    page_header_bytes: usize,
    partial: PartialRecord,
    previous: Option<Lsn>,
    overwritten: Option<Lsn>,
    failure: Option<WalError>,
}

/// What the next byte that is not page header belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// Only the first page's header will tell.
    FirstPage,
    /// The rest of a record that began before reading did.
    Skipped(u64),
    /// A record.
    Record,
    /// The rest of `partial`.
    RestOfRecord,
    /// Bytes that align the next record.
    Alignment(u64),
    /// Zeros to the end of the segment.
    AfterSwitch,
}

impl WalReader {
    /// A reader for WAL that begins at `config.start`.
    pub fn new(config: WalReaderConfig) -> Result<Self, WalReaderConfigError> {
        config.check()?;
        let kept_limit = config.block_size.bytes().max(KEPT_BODY_BYTES);
        Ok(WalReader {
            position: config.start,
            validated_end: config.start,
            expect: Expect::FirstPage,
            page_header: [0; LONG_HEADER_BYTES],
            page_header_bytes: 0,
            partial: PartialRecord::new(
                usize::try_from(kept_limit).unwrap_or(usize::MAX),
                KEPT_TRANSACTION_BYTES,
            ),
            previous: None,
            overwritten: None,
            failure: None,
            config,
        })
    }

    /// The position of the next byte to feed.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The end of the last complete and valid record, alignment included as far as it has come;
    /// the end of the segment once the zeros after a WAL switch have come. The start if there was
    /// no record yet.
    #[must_use]
    pub fn validated_end(&self) -> Lsn {
        self.validated_end
    }

    /// Where the record begins that has come only in part.
    #[must_use]
    pub fn unfinished_record(&self) -> Option<Lsn> {
        (self.expect == Expect::RestOfRecord).then_some(self.partial.start)
    }

    /// Validates the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        self.feed_each(bytes, |_| {})
    }

    /// Validates the next bytes and shows every record that they complete.
    pub fn feed_each(
        &mut self,
        bytes: &[u8],
        mut visit: impl FnMut(&WalRecord<'_>),
    ) -> Result<(), WalError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let result = self.pages(bytes, &mut visit);
        if let Err(failure) = &result {
            self.failure = Some(failure.clone());
        }
        result
    }

    /// Bytes of memory that are held for a record that has come in part.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.partial.kept_bytes()
    }

    fn pages(
        &mut self,
        mut bytes: &[u8],
        visit: &mut impl FnMut(&WalRecord<'_>),
    ) -> Result<(), WalError> {
        let block_size = self.config.block_size.bytes();
        if self
            .position
            .checked_add(bytes.len() as u64 + block_size)
            .is_none()
        {
            return Err(fail(self.position, WalErrorKind::Overflow));
        }
        while !bytes.is_empty() {
            let offset = self.position.0 % block_size;
            if offset == 0 || self.page_header_bytes > 0 {
                bytes = self.collect_page_header(bytes)?;
            } else {
                let (content, later) = split(bytes, block_size - offset);
                self.page_content(content, visit)?;
                bytes = later;
            }
        }
        Ok(())
    }

    /// Takes bytes of a page header, judges it once it is complete, returns what is left.
    fn collect_page_header<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], WalError> {
        let mut rest = bytes;
        while let Some((byte, later)) = rest.split_first() {
            self.page_header[self.page_header_bytes] = *byte;
            self.page_header_bytes += 1;
            self.position.0 += 1;
            rest = later;
            let collected = &self.page_header[..self.page_header_bytes];
            if collected.len() >= 4 && collected.len() == WalPageHeader::bytes_needed(collected) {
                let page = Lsn(self.position.0 - collected.len() as u64);
                let zero = collected.iter().all(|byte| *byte == 0);
                let header = WalPageHeader::parse(collected);
                self.page_header_bytes = 0;
                if let Some(header) = header {
                    self.enter_page(page, &header, zero)
                        .map_err(|kind| fail(page, kind))?;
                }
                break;
            }
        }
        Ok(rest)
    }

    fn enter_page(
        &mut self,
        page: Lsn,
        header: &WalPageHeader,
        zero: bool,
    ) -> Result<(), WalErrorKind> {
        if zero && self.expect == Expect::AfterSwitch {
            return Ok(());
        }
        if zero {
            return Err(WalErrorKind::NotWritten);
        }
        self.config.check_page_header(page, header)?;
        let found = if header.continues_record() {
            header.remaining
        } else {
            0
        };
        let (record, missing) = match self.expect {
            Expect::Skipped(missing) => (Lsn::INVALID, missing),
            Expect::RestOfRecord => (self.partial.start, self.partial.missing()),
            Expect::FirstPage if header.continues_record() => {
                self.expect = Expect::Skipped(u64::from(header.remaining));
                return Ok(());
            }
            _ if header.continues_record() => {
                let remaining = header.remaining;
                return Err(WalErrorKind::UnexpectedContinuation { remaining });
            }
            Expect::FirstPage | Expect::Record | Expect::Alignment(_) => {
                self.expect = Expect::Record;
                return Ok(());
            }
            Expect::AfterSwitch => return Ok(()),
        };
        if header.overwrites_record() {
            self.overwritten = record.is_valid().then_some(record);
            self.expect = Expect::Record;
            return Ok(());
        }
        if found == 0 || u64::from(found) != missing {
            return Err(WalErrorKind::Continuation {
                record,
                expected: missing,
                found,
            });
        }
        Ok(())
    }

    /// Takes bytes of one page, all of them.
    fn page_content(
        &mut self,
        mut rest: &[u8],
        visit: &mut impl FnMut(&WalRecord<'_>),
    ) -> Result<(), WalError> {
        while !rest.is_empty() {
            match self.expect {
                Expect::FirstPage => self.expect = Expect::Record,
                Expect::Skipped(bytes) => {
                    let (skipped, later) = split(rest, bytes);
                    rest = later;
                    self.advance(skipped.len());
                    match bytes - skipped.len() as u64 {
                        0 => self.align(),
                        bytes => self.expect = Expect::Skipped(bytes),
                    }
                }
                Expect::Alignment(bytes) => {
                    let (aligning, later) = split(rest, bytes);
                    rest = later;
                    self.advance(aligning.len());
                    match bytes - aligning.len() as u64 {
                        0 => {
                            // Before the first record there is nothing to have validated.
                            if self.previous.is_some() {
                                self.validated_end = self.position;
                            }
                            self.expect = Expect::Record;
                        }
                        bytes => self.expect = Expect::Alignment(bytes),
                    }
                }
                Expect::AfterSwitch => {
                    self.unused(rest)?;
                    return Ok(());
                }
                Expect::Record => rest = self.begin_record(rest, visit)?,
                Expect::RestOfRecord => rest = self.continue_record(rest, visit)?,
            }
        }
        Ok(())
    }

    /// Takes a whole record at once if it is all there, and otherwise begins to collect it.
    fn begin_record<'b>(
        &mut self,
        bytes: &'b [u8],
        visit: &mut impl FnMut(&WalRecord<'_>),
    ) -> Result<&'b [u8], WalError> {
        let start = self.position;
        if let Some((header_bytes, after_header)) = bytes.split_first_chunk::<HEADER_BYTES>() {
            let header = RecordHeader::parse(header_bytes);
            self.check_record_header(start, &header)
                .map_err(|kind| fail(start, kind))?;
            let body_bytes = header.length as usize - HEADER_BYTES;
            if let Some((body, rest)) = after_header.split_at_checked(body_bytes) {
                self.advance(header.length as usize);
                let crc = RecordHeader::finish_crc(crc32c::crc32c(body), header_bytes);
                self.finish_record(start, header, crc, body, visit)?;
                return Ok(rest);
            }
        }
        self.partial.begin(start);
        self.expect = Expect::RestOfRecord;
        Ok(bytes)
    }

    fn continue_record<'b>(
        &mut self,
        bytes: &'b [u8],
        visit: &mut impl FnMut(&WalRecord<'_>),
    ) -> Result<&'b [u8], WalError> {
        let start = self.partial.start;
        let in_header = !self.partial.has_header();
        let taken = self.partial.add(bytes);
        self.advance(taken);
        if in_header {
            let header = self.partial.header();
            let verdict = if self.partial.has_header() {
                self.check_record_header(start, &header)
            } else if self.partial.has_length() {
                // Needed to judge the next page, should the header go on there.
                self.check_record_length(header.length)
            } else {
                Ok(())
            };
            verdict.map_err(|kind| fail(start, kind))?;
        }
        if self.partial.is_complete() {
            let (header, crc) = (self.partial.header(), self.partial.crc());
            let kept = self.partial.take_kept();
            let result = self.finish_record(start, header, crc, &kept, visit);
            self.partial.keep_memory(kept);
            result?;
        }
        Ok(bytes.get(taken..).unwrap_or_default())
    }

    fn check_record_length(&self, length: u32) -> Result<(), WalErrorKind> {
        if length == 0 {
            return Err(WalErrorKind::NotWritten);
        }
        if !(HEADER_BYTES as u32..=self.config.max_record_bytes()).contains(&length) {
            return Err(WalErrorKind::RecordLength { length });
        }
        Ok(())
    }

    fn check_record_header(&self, start: Lsn, header: &RecordHeader) -> Result<(), WalErrorKind> {
        self.check_record_length(header.length)?;
        if !header.resource_manager.is_valid() {
            return Err(WalErrorKind::ResourceManager {
                number: header.resource_manager.0,
            });
        }
        let (found, expected) = (header.previous, self.previous);
        if expected.map_or(found >= start, |expected| found != expected) {
            return Err(WalErrorKind::PreviousLink { found, expected });
        }
        Ok(())
    }

    /// Accepts a record of which the last byte has just been taken.
    fn finish_record(
        &mut self,
        start: Lsn,
        header: RecordHeader,
        computed: u32,
        body: &[u8],
        visit: &mut impl FnMut(&WalRecord<'_>),
    ) -> Result<(), WalError> {
        let stored = header.crc;
        if stored != computed {
            return Err(fail(start, WalErrorKind::Crc { stored, computed }));
        }
        let server_major = self.config.server_major;
        let end = Lsn(self.position.0.next_multiple_of(ALIGNMENT));
        let record = WalRecord {
            start,
            end,
            header,
            body,
            server_major,
        };
        if let Some(lost) = self.overwritten.take().filter(|_| header.is_overwrite()) {
            let found = record
                .body()
                .ok()
                .and_then(|body| body::overwritten_lsn(body.main_data));
            if found != Some(lost) {
                return Err(fail(start, WalErrorKind::Overwrite { found, lost }));
            }
        }
        self.previous = Some(start);
        self.validated_end = self.position;
        self.align();
        let at_border = self.config.segment_size.offset_in_segment(self.position) == 0;
        if header.is_switch() && !at_border {
            self.expect = Expect::AfterSwitch;
        }
        visit(&record);
        Ok(())
    }

    /// Takes the unused rest of a segment after a WAL switch.
    fn unused(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
            self.advance(at);
            return Err(fail(self.position, WalErrorKind::AfterSwitch));
        }
        self.advance(bytes.len());
        if self.config.segment_size.offset_in_segment(self.position) == 0 {
            self.validated_end = self.position;
            self.expect = Expect::Record;
        }
        Ok(())
    }

    /// A record ended here; the next one begins at the next multiple of eight.
    fn align(&mut self) {
        self.expect = match self.position.0.next_multiple_of(ALIGNMENT) - self.position.0 {
            0 => Expect::Record,
            bytes => Expect::Alignment(bytes),
        };
    }

    /// Cannot overflow: `pages` has looked ahead.
    fn advance(&mut self, bytes: usize) {
        self.position.0 += bytes as u64;
    }
}

fn fail(at: Lsn, kind: WalErrorKind) -> WalError {
    WalError { at, kind }
}

/// The first `length` bytes, or all if there are fewer, and what follows.
fn split(bytes: &[u8], length: u64) -> (&[u8], &[u8]) {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    bytes.split_at(length.min(bytes.len()))
}
