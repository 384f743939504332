//! Names that people choose and ids that the system makes.

use std::fmt;
use std::str::FromStr;

use pg_format::{Lsn, TimelineId};
use uuid::Uuid;

use crate::Timestamp;

/// The text cannot name an instance or a branch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} cannot be a name; use 1 to 40 letters, digits, '-' or '_', beginning with a letter \
     or digit"
)]
pub struct InvalidName {
    name: String,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[derive(schemars::JsonSchema)]
        #[serde(transparent)]
        pub struct $type(#[schemars(regex(pattern = "^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$"))] String);

        impl $type {
            /// Checks the name: it becomes a token of a subject and a part of an object key.
            pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
                let name = name.into();
                let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
                if begins_well && name.len() <= 40 && name.chars().all(allowed) {
                    Ok($type(name))
                } else {
                    Err(InvalidName { name })
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type! {
    /// The name of an instance: chosen at registration, unique, never changed.
    InstanceName
}
name_type! {
    /// A group of backup workers, by region or class; an instance's backups are taken by the workers of its pool.
    PoolName
}
name_type! {
    /// The name of a branch within its instance; the registered cluster itself is `main`.
    BranchName
}

impl PoolName {
    /// The pool of every instance that names none.
    pub const DEFAULT: &str = "default";
}

impl BranchName {
    /// The branch that registration makes.
    #[must_use]
    pub fn main() -> Self {
        BranchName("main".to_owned())
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(transparent)]
        pub struct $type(pub Uuid);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $type {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map($type)
            }
        }
    };
}

id_type! {
    /// A command, made by whoever gives it (UUIDv7). The backup or restore it asks for has this id too,
    /// so that a command delivered twice has one effect.
    CommandId
}
id_type! {
    /// A backup: the id of the command that asked for it, or [`BackupId::scheduled`].
    BackupId
}
id_type! {
    /// A restore: the id of the command that asked for it.
    RestoreId
}
id_type! {
    /// A drill: the id of the command that asked for it, or [`DrillId::scheduled`].
    DrillId
}
id_type! {
    /// One deletion of what retention lets go of.
    SweepId
}
id_type! {
    /// A schedule of an instance.
    ScheduleId
}

/// Namespace of the ids that are computed rather than drawn (a fixed random UUID).
const ZEKTOR_NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_8a52_94c3_4d1e_8b0a_57e2_c91f_3d44);

impl BackupId {
    /// The id of the backup that `schedule` asks for at `fire_at`: the same in every scheduler.
    #[must_use]
    pub fn scheduled(schedule: ScheduleId, fire_at: Timestamp) -> Self {
        let text = format!("backup/{schedule}/{}", fire_at.timestamp());
        BackupId(Uuid::new_v5(&ZEKTOR_NAMESPACE, text.as_bytes()))
    }

    /// The id of the `attempt`th backup (from 1) that is taken because `failed` did not come to be.
    #[must_use]
    pub fn again(failed: BackupId, attempt: u32) -> Self {
        let text = format!("again/{failed}/{attempt}");
        BackupId(Uuid::new_v5(&ZEKTOR_NAMESPACE, text.as_bytes()))
    }

    /// The id of the first backup of a branch that `restore` made.
    #[must_use]
    pub fn first_of_branch(restore: RestoreId) -> Self {
        BackupId(Uuid::new_v5(
            &ZEKTOR_NAMESPACE,
            format!("first-backup/{restore}").as_bytes(),
        ))
    }

    /// The id of the `attempt`th of them (from 0): those before it did not come to be.
    #[must_use]
    pub fn first_of_branch_again(restore: RestoreId, attempt: u32) -> Self {
        let first = BackupId::first_of_branch(restore);
        match attempt {
            0 => first,
            attempt => BackupId::again(first, attempt),
        }
    }

    /// The id of the `attempt`th backup (from 0) that answers the WAL gap of a branch which begins at `from`.
    #[must_use]
    pub fn after_gap(
        (instance, branch): (&InstanceName, &BranchName),
        (timeline, from): (TimelineId, Lsn),
        attempt: u32,
    ) -> Self {
        let text = format!("gap/{instance}/{branch}/{timeline}/{from}/{attempt}");
        BackupId(Uuid::new_v5(&ZEKTOR_NAMESPACE, text.as_bytes()))
    }
}

impl DrillId {
    /// The id of the drill that an instance's drill schedule asks for at `fire_at`: the same in every scheduler.
    #[must_use]
    pub fn scheduled(instance: &InstanceName, fire_at: Timestamp) -> Self {
        let text = format!("drill/{instance}/{}", fire_at.timestamp());
        DrillId(Uuid::new_v5(&ZEKTOR_NAMESPACE, text.as_bytes()))
    }
}

impl ScheduleId {
    /// The id of the default schedule of an instance that `registration` made.
    #[must_use]
    pub fn default_of(registration: CommandId) -> Self {
        let text = format!("default-schedule/{registration}");
        ScheduleId(Uuid::new_v5(&ZEKTOR_NAMESPACE, text.as_bytes()))
    }
}

impl From<CommandId> for BackupId {
    fn from(id: CommandId) -> Self {
        BackupId(id.0)
    }
}

impl From<CommandId> for ScheduleId {
    fn from(id: CommandId) -> Self {
        ScheduleId(id.0)
    }
}

impl From<CommandId> for DrillId {
    fn from(id: CommandId) -> Self {
        DrillId(id.0)
    }
}

impl From<CommandId> for RestoreId {
    fn from(id: CommandId) -> Self {
        RestoreId(id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{BackupId, BranchName, InstanceName, ScheduleId};

    #[test]
    fn names_are_tokens_of_a_subject() {
        for name in ["a", "orders", "Orders_2-eu", "0"] {
            assert_eq!(InstanceName::new(name).unwrap().as_str(), name);
        }
        for name in [
            "",
            "-a",
            "_a",
            "a.b",
            "a b",
            "a/b",
            "a>",
            "*",
            "ä",
            &"x".repeat(41),
        ] {
            assert!(BranchName::new(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_scheduled_backup_has_one_id_everywhere() {
        let schedule: ScheduleId = "0192d6a0-0000-7000-8000-000000000001".parse().unwrap();
        let at = chrono::DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let id = BackupId::scheduled(schedule, at);
        assert_eq!(id, BackupId::scheduled(schedule, at));
        assert_ne!(
            id,
            BackupId::scheduled(schedule, at + chrono::TimeDelta::seconds(1))
        );
    }
}
