//! How a value of the domain rests in a column: as text or as an integer, in both dialects the same.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use events::document::DrillSettings;
use events::event::{
    AlertRule, AlertSeverity, DamagedPage, DrillCheckResult, DrillStep, ExtensionCheck, GapCause,
    SlotRiskLevel, WalObjectKind,
};
use events::mark::BackupMark;
use events::query::{BackupStatus, BranchState, DrillStatus, RebuildSource, RestoreStatus};
use events::window::Window;
use events::{
    BackupId, BackupType, BranchName, ClusterSize, DrillId, InstanceName, PoolName, RestoreId,
    RestoreTarget, Retention, ScheduleId, SweepId, Timestamp, Trigger, WalKeep,
};
use pg_format::{Lsn, SystemIdentifier, TimelineId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, Row as _};

use super::rows::OwnTerms;

/// A value as the database has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SqlValue {
    Text(Option<String>),
    Integer(Option<i64>),
}

impl SqlValue {
    pub(crate) fn bind<'q>(
        self,
        query: Query<'q, Any, AnyArguments>,
    ) -> Query<'q, Any, AnyArguments> {
        match self {
            SqlValue::Text(text) => query.bind(text),
            SqlValue::Integer(integer) => query.bind(integer),
        }
    }
}

/// A type that can stand in a column.
pub(crate) trait Column: Sized {
    /// As it is written.
    fn to_sql(&self) -> SqlValue;
    /// As it is read; fails on what this build would not have written.
    fn read(row: &AnyRow, name: &str) -> sqlx::Result<Self>;
}

/// One that is never null, so that `Option` of it can stand in a column too.
pub(crate) trait Present: Sized {
    const NULL: SqlValue;
    fn write(&self) -> SqlValue;
    fn parse(row: &AnyRow, name: &str) -> sqlx::Result<Option<Self>>;
}

impl<T: Present> Column for T {
    fn to_sql(&self) -> SqlValue {
        self.write()
    }

    fn read(row: &AnyRow, name: &str) -> sqlx::Result<Self> {
        T::parse(row, name)?.ok_or_else(|| bad(name, "it is null"))
    }
}

impl<T: Present> Column for Option<T> {
    fn to_sql(&self) -> SqlValue {
        self.as_ref().map_or(T::NULL, Present::write)
    }

    fn read(row: &AnyRow, name: &str) -> sqlx::Result<Self> {
        T::parse(row, name)
    }
}

fn bad(name: &str, reason: impl Display) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: name.to_owned(),
        source: reason.to_string().into(),
    }
}

fn parse_text<T>(
    row: &AnyRow,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> sqlx::Result<Option<T>> {
    let text: Option<String> = row.try_get(name)?;
    text.map(|text| parse(&text).map_err(|reason| bad(name, reason)))
        .transpose()
}

fn parse_integer<T>(
    row: &AnyRow,
    name: &str,
    parse: impl FnOnce(i64) -> Option<T>,
) -> sqlx::Result<Option<T>> {
    let integer: Option<i64> = row.try_get(name)?;
    integer
        .map(|integer| {
            parse(integer).ok_or_else(|| bad(name, format!("{integer} is out of range")))
        })
        .transpose()
}

/// Types that write themselves as text and read themselves back.
macro_rules! as_text {
    ($($type:ty),+) => { $(
        impl Present for $type {
            const NULL: SqlValue = SqlValue::Text(None);

            fn write(&self) -> SqlValue {
                SqlValue::Text(Some(self.to_string()))
            }

            fn parse(row: &AnyRow, name: &str) -> sqlx::Result<Option<Self>> {
                parse_text(row, name, |text| <$type>::from_str(text).map_err(|error| error.to_string()))
            }
        }
    )+ };
}
as_text!(
    String,
    InstanceName,
    BranchName,
    BackupId,
    RestoreId,
    ScheduleId,
    DrillId,
    SweepId,
    PoolName,
    Retention
);

/// Types with a JSON form: words without their quotes, structures as they are.
macro_rules! as_json {
    ($($type:ty),+) => { $(
        impl Present for $type {
            const NULL: SqlValue = SqlValue::Text(None);

            fn write(&self) -> SqlValue {
                SqlValue::Text(Some(json_text(self)))
            }

            fn parse(row: &AnyRow, name: &str) -> sqlx::Result<Option<Self>> {
                parse_text(row, name, parse_json)
            }
        }
    )+ };
}
as_json!(
    BackupType, Trigger, BackupStatus, RestoreStatus, BranchState, ClusterSize, WalObjectKind, GapCause,
    SlotRiskLevel, Window, RebuildSource, SystemIdentifier, RestoreTarget, DrillSettings, WalKeep, OwnTerms, BackupMark,
    DrillStatus, DrillStep, AlertRule, AlertSeverity, Vec<DamagedPage>, Vec<ExtensionCheck>, Vec<DrillCheckResult>,
    Vec<TimelineId>, BTreeMap<String, u64>
);

pub(crate) fn json_text<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => unreachable!("plain data has a JSON form"),
    }
}

fn parse_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let word = || serde_json::from_value(serde_json::Value::from(text));
    serde_json::from_str(text)
        .or_else(|_| word())
        .map_err(|error| error.to_string())
}

/// Numbers, as far as a BIGINT goes.
macro_rules! as_integer {
    ($($type:ty),+) => { $(
        impl Present for $type {
            const NULL: SqlValue = SqlValue::Integer(None);

            fn write(&self) -> SqlValue {
                SqlValue::Integer(Some(i64::try_from(*self).unwrap_or(i64::MAX)))
            }

            fn parse(row: &AnyRow, name: &str) -> sqlx::Result<Option<Self>> {
                parse_integer(row, name, |integer| integer.try_into().ok())
            }
        }
    )+ };
}
as_integer!(u64, u32, u16);

impl Present for bool {
    const NULL: SqlValue = SqlValue::Integer(None);

    fn write(&self) -> SqlValue {
        SqlValue::Integer(Some(i64::from(*self)))
    }

    fn parse(row: &AnyRow, name: &str) -> sqlx::Result<Option<Self>> {
        parse_integer(row, name, |integer| match integer {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        })
    }
}

impl Present for TimelineId {
    const NULL: SqlValue = SqlValue::Integer(None);

    fn write(&self) -> SqlValue {
        self.0.write()
    }

    fn parse(row: &AnyRow, name: &str) -> sqlx::Result<Option<Self>> {
        Ok(u32::parse(row, name)?.map(TimelineId))
    }
}

impl Present for Lsn {
    const NULL: SqlValue = SqlValue::Integer(None);

    fn write(&self) -> SqlValue {
        self.0.write()
    }

    fn parse(row: &AnyRow, name: &str) -> sqlx::Result<Option<Self>> {
        Ok(u64::parse(row, name)?.map(Lsn))
    }
}

impl Present for Timestamp {
    const NULL: SqlValue = SqlValue::Integer(None);

    fn write(&self) -> SqlValue {
        SqlValue::Integer(Some(self.timestamp_micros()))
    }

    fn parse(row: &AnyRow, name: &str) -> sqlx::Result<Option<Self>> {
        parse_integer(row, name, Timestamp::from_timestamp_micros)
    }
}
