//! From the store's error to ours.
//!
//! `object_store` hands over the HTTP status only for some calls; for the others it is in the
//! error's text ("status code: 403"), which is read here as the last resort.

use std::error::Error as StdError;
use std::io::ErrorKind;

use object_store::Error;

use crate::{ErrorClass, RepositoryError};

/// Answers that come with status 404 though it is the bucket that is missing, not the object.
const NO_BUCKET: [&str; 4] = [
    "NoSuchBucket",
    "ContainerNotFound",
    "specified bucket does not exist",
    "AccountNotFound",
];

pub(super) fn classify(operation: &'static str, key: &str, error: Error) -> RepositoryError {
    let key = key.to_owned();
    match class(&error) {
        ErrorClass::Absent => RepositoryError::Absent { key },
        ErrorClass::Conflict => RepositoryError::Conflict {
            key,
            reason: format!("the store said: {error}"),
        },
        ErrorClass::Denied => RepositoryError::Denied {
            operation,
            key,
            source: error.into(),
        },
        ErrorClass::Permanent | ErrorClass::Corrupt => RepositoryError::Permanent {
            operation,
            key,
            source: error.into(),
        },
        ErrorClass::Transient => RepositoryError::Transient {
            operation,
            key,
            source: error.into(),
        },
    }
}

fn class(error: &Error) -> ErrorClass {
    match error {
        Error::NotFound { .. } => {
            let text = text_of(error);
            if NO_BUCKET.iter().any(|answer| text.contains(answer)) {
                ErrorClass::Permanent
            } else {
                ErrorClass::Absent
            }
        }
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => {
            ErrorClass::Conflict
        }
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => ErrorClass::Denied,
        Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => ErrorClass::Permanent,
        _ => generic(error),
    }
}

/// Unknown errors are transient: retries are bounded, and giving up loses a backup.
fn generic(error: &Error) -> ErrorClass {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = next {
        match cause
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind)
        {
            Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                return ErrorClass::Denied;
            }
            Some(ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::InvalidInput) => {
                return ErrorClass::Permanent;
            }
            _ => next = cause.source(),
        }
    }
    match status(&text_of(error)) {
        Some(401 | 403) => ErrorClass::Denied,
        Some(408 | 429) => ErrorClass::Transient,
        Some(400..=499) => ErrorClass::Permanent,
        _ => ErrorClass::Transient,
    }
}

fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// The texts of the whole chain of causes.
fn text_of(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use object_store::Error;

    use super::class;
    use crate::ErrorClass;

    #[test]
    fn one_class_for_each_error() {
        let generic = |text: &str| Error::Generic {
            store: "S3",
            source: text.into(),
        };
        let missing = |text: &str| Error::NotFound {
            path: "key".into(),
            source: text.into(),
        };
        let io = |kind| Error::Generic {
            store: "L",
            source: std::io::Error::from(kind).into(),
        };
        let cases = [
            (missing("<Code>NoSuchKey</Code>"), ErrorClass::Absent),
            (missing("<Code>NoSuchBucket</Code>"), ErrorClass::Permanent),
            (generic("status code: 403 Forbidden"), ErrorClass::Denied),
            (
                generic("status code: 400 Bad Request"),
                ErrorClass::Permanent,
            ),
            (
                generic("status code: 429 Too Many Requests"),
                ErrorClass::Transient,
            ),
            (generic("status code: 503 Slow Down"), ErrorClass::Transient),
            (generic("connection reset"), ErrorClass::Transient),
            (io(std::io::ErrorKind::PermissionDenied), ErrorClass::Denied),
            (io(std::io::ErrorKind::StorageFull), ErrorClass::Transient),
        ];
        for (error, expected) in cases {
            assert_eq!(class(&error), expected, "{error}");
        }
    }
}
