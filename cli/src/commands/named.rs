//! What people call a thing by: its id, the first characters of that, or its name.

use uuid::Uuid;

use crate::failure::{Ending, Failure};

/// Of so many it is said which they are.
const MOST_CANDIDATES: usize = 10;
/// Fewer characters of an id are too easily those of another one.
const SHORTEST_PREFIX: usize = 6;

/// What was given may be the beginning of an id.
pub(crate) fn is_prefix(text: &str) -> bool {
    text.len() >= SHORTEST_PREFIX && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

/// Finds the one that is called `text`: by its whole id, else by its exact name, else by the beginning of its id.
/// `Ok(None)` if nothing is. `told` says what tells one from another of the same name.
pub(crate) fn find<'a, T>(
    all: &'a [T],
    text: &str,
    id: impl Fn(&T) -> Uuid,
    name: impl Fn(&T) -> &str,
    told: impl Fn(&T) -> String,
) -> Result<Option<&'a T>, Failure> {
    if let Ok(wanted) = text.parse::<Uuid>() {
        return Ok(all.iter().find(|one| id(one) == wanted));
    }
    let named: Vec<&T> = all.iter().filter(|one| name(one) == text).collect();
    let found = match named.is_empty() && is_prefix(text) {
        false => named,
        true => {
            let prefix = text.to_ascii_lowercase();
            let begins = |one: &&T| id(one).to_string().starts_with(&prefix);
            all.iter().filter(begins).collect()
        }
    };
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => {
            let described = |one: &&T| format!("\n         {}  {}", id(one), told(one));
            let candidates: String = found
                .iter()
                .take(MOST_CANDIDATES)
                .copied()
                .map(|one| described(&one))
                .collect();
            let more = match found.len().saturating_sub(MOST_CANDIDATES) {
                0 => String::new(),
                more => format!("\n         and {more} more"),
            };
            Err(Failure::new(
                Ending::Usage,
                "ambiguous",
                format!("{text:?} could be any of {}", found.len()),
                format!("give the id that is meant:{candidates}{more}"),
            ))
        }
    }
}

/// The ids as short as they can be told apart, also from those that are not among them.
pub(crate) fn short(ids: &[Uuid]) -> Vec<String> {
    // The ends of an id's groups: it is easier to compare by eye. The first group of an id made of the time is the
    // same for a minute; the first two are a millisecond, or 48 bits of a digest.
    for length in [13, 18, 23] {
        let mut all: Vec<String> = ids
            .iter()
            .map(|id| id.to_string()[..length].to_owned())
            .collect();
        let short = all.clone();
        all.sort_unstable();
        all.dedup();
        if all.len() == ids.len() {
            return short;
        }
    }
    ids.iter().map(Uuid::to_string).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{find, short};
    use crate::failure::Ending;

    fn id(text: &str) -> Uuid {
        text.parse().unwrap()
    }

    #[test]
    fn by_id_by_name_and_by_the_beginning_of_an_id() {
        let all = [
            (id("0190a5d0-0000-7000-8000-000000000001"), "daily"),
            (id("0190a5d0-0001-7000-8000-000000000002"), "0190a5"),
            (id("0290a5d0-0001-7000-8000-000000000003"), "daily"),
        ];
        let found = |text: &str| {
            let found = find(
                &all,
                text,
                |one| one.0,
                |one| one.1,
                |_| "of march".to_owned(),
            );
            found.map(|one| one.map(|one| one.0.to_string()[28..].to_owned()))
        };
        let check = |text: &str, expected: Option<&str>| {
            let expected = expected.map(|end| format!("{end:0>8}"));
            assert_eq!(found(text).unwrap(), expected, "{text}");
        };
        check("0190a5d0-0000-7000-8000-000000000001", Some("1"));
        check("0190A5D0-0000", Some("1"));
        check("0290a5", Some("3"));
        // A name counts before the beginning of an id.
        check("0190a5", Some("2"));
        check("0290a", None);
        check("dail", None);
        check("nobody", None);
        check("01930000-0000-7000-8000-000000000001", None);
        for text in ["daily", "0190a5d"] {
            let failure = found(text).unwrap_err();
            assert_eq!(
                (failure.ending, &*failure.code),
                (Ending::Usage, "ambiguous")
            );
            let told = "0190a5d0-0000-7000-8000-000000000001  of march";
            assert!(failure.hint.contains(told), "{failure:?}");
        }
    }

    #[test]
    fn ids_are_as_short_as_they_differ() {
        let one = id("0190a5d0-0000-7000-8000-000000000001");
        let other = id("0190a5d0-0001-7000-8000-000000000002");
        assert_eq!(short(&[one]), ["0190a5d0-0000"]);
        assert_eq!(short(&[one, other]), ["0190a5d0-0000", "0190a5d0-0001"]);
        assert_eq!(short(&[one, one]).len(), 2);
        assert!(short(&[]).is_empty());
    }
}
