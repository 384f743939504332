//! `zektor wal push`: PostgreSQL's archive_command.
//!
//! What must stay true: it ends with 0 only when the file is durable in the store, or is one that the archive does
//! not need. The same file twice is once; another file under the same name is refused, and changes nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use pg_format::{SegmentName, TimelineHistory, TimelineId};
use repository::{BranchRecord, BranchWriter, ErrorClass, PutOutcome, RepositoryError};
use serde::Serialize;
use service::run::chain;
use wal_index::{IndexSettings, SegmentIndex};

use super::admission::{self, OtherWay};
use super::archive::{archived_under, repository, store_failure};
use super::examine::{self, Expected, NotItsWal};
use super::file::WalFile;
use crate::arguments::WalPush;
use crate::failure::{Ending, Failure};
use crate::output::{Reply, note};
use crate::session::Setting;

/// PostgreSQL tries again after a minute at most; longer than this, its log should say why.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);
/// The index can be made at any later time.
const INDEX_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize)]
struct Pushed {
    file: String,
    /// Whether it is in the archive now.
    stored: bool,
    /// It was there before.
    already_stored: bool,
    stored_bytes: u64,
    /// Why a file is accepted and not stored.
    reason: Option<&'static str>,
}

/// Stores a file, once it was looked at.
pub(crate) async fn push(setting: &Setting, given: WalPush) -> Result<Reply, Failure> {
    let pushed = tokio::time::timeout(GIVE_UP_AFTER, Box::pin(push_file(setting, given))).await;
    let pushed = pushed.map_err(|_elapsed| {
        let seconds = GIVE_UP_AFTER.as_secs();
        let message = format!(
            "the store took nothing within {seconds} s; PostgreSQL asks again; is the store up?"
        );
        Failure::new(Ending::Unreachable, "unreachable", message, "")
    })??;
    // Nothing to read in the server's log while all is well.
    Reply::new(&pushed, "")
}

async fn push_file(setting: &Setting, given: WalPush) -> Result<Pushed, Failure> {
    let name = given.path.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default().to_owned();
    let file = WalFile::named(&name)?;
    if file == WalFile::BackupHistory {
        let reason = "a backup of zektor has a manifest of its own, and other backups are not in this archive";
        return Ok(Pushed::not_needed(name, reason));
    }
    let repository = repository(setting)?;
    let writer = repository.writer(&given.of.instance, &given.of.branch);
    let record = writer.record().await;
    let record = record.map_err(|error| unknown(&given, &error))?;
    admission::by_command(&repository, &record, &name).await?;
    let raw = read(&given.path)?;
    let push = Push {
        writer,
        record,
        path: given.path,
        name,
        settings: index_settings(setting)?,
    };
    match file {
        WalFile::Segment(segment) => push.segment(&segment, raw).await,
        WalFile::Partial(segment) => push.partial(&segment, raw).await,
        WalFile::History(timeline) => push.history(timeline, raw).await,
        WalFile::BackupHistory => Ok(Pushed::not_needed(push.name, "")),
    }
}

fn unknown(given: &WalPush, error: &RepositoryError) -> Failure {
    let (instance, branch) = (&given.of.instance, &given.of.branch);
    if error.is_absent() {
        let message = format!(
            "the repository has no branch {branch} of {instance}; register it first: zektor instance add {instance} \
             --archive-mode command --dsn ..."
        );
        return Failure::not_found(message, "");
    }
    store_failure("the branch's record cannot be read", error)
}

fn read(path: &Path) -> Result<Bytes, Failure> {
    let what = format!("{} cannot be read", path.display());
    let read = std::fs::read(path).map_err(|error| Failure::local(&what, &error))?;
    Ok(Bytes::from(read))
}

fn index_settings(setting: &Setting) -> Result<IndexSettings, Failure> {
    const NAME: &str = "ZEKTOR_WAL_INDEX_THRESHOLD_ROWS";
    let Some(text) = setting.environment.get(NAME) else {
        return Ok(IndexSettings::default());
    };
    let threshold_rows = text
        .parse()
        .map_err(|_| Failure::usage(format!("{NAME} is {text:?}, which is not a number"), ""))?;
    Ok(IndexSettings { threshold_rows })
}

struct Push {
    writer: BranchWriter,
    record: BranchRecord,
    path: PathBuf,
    name: String,
    settings: IndexSettings,
}

impl Push {
    fn parse(&self, segment: &str) -> Result<SegmentName, Failure> {
        SegmentName::parse(segment, self.record.wal_segment_size)
            .map_err(|error| self.refused(&error))
    }

    async fn segment(self, name: &str, raw: Bytes) -> Result<Pushed, Failure> {
        let name = self.parse(name)?;
        let looked = self.look(name, &raw).await?;
        if let Err(way) = self.admitted(&looked.history, Some(name)).await? {
            return self.unless_stored(name, &raw, way).await;
        }
        let indexes = examine::segment(looked.expected(&self, name), &raw);
        let indexes = indexes.map_err(|error| self.not_its_wal(&error))?;
        let put = self.writer.put_segment(name, raw).await;
        let stored = put.map_err(|error| self.not_stored(&error))?;
        // Of an ended timeline, perhaps, or from when the branch was streamed.
        let _ = self.writer.delete_partial(name).await;
        self.store_indexes(&looked.history, indexes).await;
        Ok(Pushed::stored(self.name, stored))
    }

    /// What a promoted server has of the timeline that it left: stored as far as it is valid, as streaming leaves it.
    async fn partial(self, name: &str, raw: Bytes) -> Result<Pushed, Failure> {
        let name = self.parse(name)?;
        let looked = self.look(name, &raw).await?;
        let admitted = self.admitted(&looked.history, None).await?;
        admitted.map_err(|way| self.another_way(way))?;
        let valid = examine::beginning(&looked.expected(&self, name), &raw);
        let valid = valid.map_err(|error| self.not_its_wal(&error))?;
        if valid == 0 {
            return Ok(Pushed::not_needed(
                self.name,
                "no record of the timeline ends in it",
            ));
        }
        match RepositoryError::absent_as_none(self.writer.get_segment(name).await) {
            Ok(None) => {}
            Ok(Some(_)) => {
                return Ok(Pushed::not_needed(
                    self.name,
                    "the whole segment is in the archive",
                ));
            }
            Err(error) => return Err(self.not_stored(&error)),
        }
        let put = self.writer.put_partial(name, raw.slice(..valid)).await;
        let stored_bytes = put.map_err(|error| self.not_stored(&error))?;
        Ok(Pushed::stored(
            self.name,
            PutOutcome::Stored { stored_bytes },
        ))
    }

    async fn history(self, timeline: TimelineId, text: Bytes) -> Result<Pushed, Failure> {
        let history = self.parse_history(timeline, &text)?;
        let admitted = self.admitted(&history, None).await?;
        admitted.map_err(|way| self.another_way(way))?;
        let put = self.writer.put_history(timeline, text).await;
        let stored = put.map_err(|error| self.not_stored(&error))?;
        Ok(Pushed::stored(self.name, stored))
    }

    /// Whether WAL of a timeline, or a whole segment of it, leads on from what is archived.
    async fn admitted(
        &self,
        history: &TimelineHistory,
        segment: Option<SegmentName>,
    ) -> Result<Result<(), OtherWay>, Failure> {
        let admitted = admission::admitted(&self.writer, &self.record, history, segment).await;
        admitted.map_err(|error| self.not_stored(&error))
    }

    /// A file that is archived already is so, wherever it leads.
    async fn unless_stored(
        self,
        name: SegmentName,
        raw: &Bytes,
        way: OtherWay,
    ) -> Result<Pushed, Failure> {
        match RepositoryError::absent_as_none(self.writer.get_segment(name).await) {
            Ok(Some(stored)) if stored == raw => Ok(Pushed {
                stored: true,
                already_stored: true,
                ..Pushed::not_needed(self.name, "it was there")
            }),
            Ok(_) => Err(self.another_way(way)),
            Err(error) => Err(self.not_stored(&error)),
        }
    }

    fn another_way(&self, way: OtherWay) -> Failure {
        admission::another_way(&self.record, &self.name, way)
    }

    /// What the archive has around a segment.
    async fn look(&self, name: SegmentName, raw: &Bytes) -> Result<Looked, Failure> {
        let size = self.record.wal_segment_size;
        if raw.len() as u64 != size.bytes() {
            return Err(self.refuse(&format!(
                "it has {} bytes, and segments of this branch have {}",
                raw.len(),
                size.bytes()
            )));
        }
        let history = self.timeline_history(name.timeline).await?;
        let Some(before) = name.number(size).checked_sub(1) else {
            return Ok(Looked::first(history));
        };
        let before = archived_under(&history, before, size);
        let bytes = match self.writer.get_segment(before).await {
            Ok(bytes) => Some(bytes),
            Err(error) if error.is_absent() => None,
            Err(error) if error.class() == ErrorClass::Corrupt => {
                note(&format!(
                    "the archived segment before {} is damaged: {}",
                    self.name,
                    chain(&error)
                ));
                None
            }
            Err(error) => return Err(self.not_stored(&error)),
        };
        // The segment that is read first goes on with what the one before it left open.
        let carried = match (&bytes, before.number(size).checked_sub(1)) {
            (Some(_), Some(number)) => Some(archived_under(&history, number, size)),
            _ => None,
        };
        let mut carry = Vec::new();
        if let Some(carried) = carried {
            let index = self
                .writer
                .stored_wal_index(carried.timeline, carried.number(size));
            if let Ok(Ok(Some(index))) = tokio::time::timeout(INDEX_WITHIN, index).await {
                carry = index.open;
            }
        }
        Ok(Looked {
            history,
            before: bytes,
            carry,
        })
    }

    /// From the archive, where it was pushed before its segments; otherwise from beside the segment, and into the
    /// archive.
    async fn timeline_history(&self, timeline: TimelineId) -> Result<TimelineHistory, Failure> {
        if timeline == TimelineId(1) {
            return Ok(TimelineHistory::root(timeline));
        }
        let archived = RepositoryError::absent_as_none(self.writer.get_history(timeline).await);
        let text = match archived.map_err(|error| self.not_stored(&error))? {
            Some(text) => text,
            None => {
                let file = self.path.with_file_name(timeline.history_file_name());
                let text = read(&file)?;
                let history = self.parse_history(timeline, &text)?;
                let admitted = self.admitted(&history, None).await?;
                admitted.map_err(|way| self.another_way(way))?;
                let _stored = self.writer.put_history(timeline, text.clone()).await;
                text
            }
        };
        self.parse_history(timeline, &text)
    }

    fn parse_history(
        &self,
        timeline: TimelineId,
        text: &Bytes,
    ) -> Result<TimelineHistory, Failure> {
        TimelineHistory::parse(timeline, &String::from_utf8_lossy(text))
            .map_err(|error| self.refused(&error))
    }

    /// What goes wrong here can be made good from the archive.
    async fn store_indexes(&self, history: &TimelineHistory, indexes: Vec<SegmentIndex>) {
        let size = self.record.wal_segment_size;
        for index in indexes {
            let timeline = archived_under(history, index.segment, size).timeline;
            let indexes = [index];
            let put = self.writer.put_wal_index(timeline, &indexes);
            let failed = match tokio::time::timeout(INDEX_WITHIN, put).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => chain(&error),
                Err(elapsed) => elapsed.to_string(),
            };
            note(&format!(
                "{} is archived; its index is not, and is made later: {failed}",
                self.name
            ));
        }
    }

    fn not_stored(&self, error: &RepositoryError) -> Failure {
        store_failure(&format!("{} is not archived", self.name), error)
    }

    fn not_its_wal(&self, error: &NotItsWal) -> Failure {
        self.refuse(&chain(error))
    }

    fn refused(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        self.refuse(&chain(error))
    }

    fn refuse(&self, why: &str) -> Failure {
        let (instance, branch) = (&self.record.instance, &self.record.branch);
        let system = self.record.system_identifier;
        let message = format!(
            "{} is refused, it is not wal of branch {branch} of {instance} (system identifier {system}): {why}; is \
             --instance right for this server?",
            self.name
        );
        Failure::new(Ending::Refused, "not_its_wal", message, "")
    }
}

/// What the archive has around a segment.
struct Looked {
    history: TimelineHistory,
    before: Option<Bytes>,
    carry: Vec<wal_index::OpenTransaction>,
}

impl Looked {
    fn first(history: TimelineHistory) -> Self {
        Looked {
            history,
            before: None,
            carry: Vec::new(),
        }
    }

    fn expected<'a>(&'a self, push: &'a Push, name: SegmentName) -> Expected<'a> {
        Expected {
            record: &push.record,
            history: self.history.clone(),
            number: name.number(push.record.wal_segment_size),
            before: self.before.as_deref(),
            carry: self.carry.clone(),
            settings: push.settings,
        }
    }
}

impl Pushed {
    fn stored(file: String, outcome: PutOutcome) -> Pushed {
        Pushed {
            file,
            stored: true,
            already_stored: matches!(outcome, PutOutcome::AlreadyStored { .. }),
            stored_bytes: outcome.stored_bytes(),
            reason: None,
        }
    }

    fn not_needed(file: String, reason: &'static str) -> Pushed {
        Pushed {
            file,
            stored: false,
            already_stored: false,
            stored_bytes: 0,
            reason: Some(reason),
        }
    }
}
