//! One field of an expression: read, checked, and written in its normal form and in the engine's.

use std::fmt;

/// The five fields.
pub(super) struct Fields {
    pub(super) minute: Field,
    pub(super) hour: Field,
    pub(super) day_of_month: Field,
    pub(super) month: Field,
    pub(super) day_of_week: Field,
}

/// A field that was read.
pub(super) struct Field {
    kind: &'static Kind,
    items: Vec<Item>,
}

/// One entry of a list.
enum Item {
    Star {
        step: u8,
    },
    One(u8),
    Range {
        from: u8,
        to: u8,
        step: u8,
    },
    /// The day of this number, or the last of a month that is shorter; [`ALWAYS_LAST`] is `L`.
    Last(u8),
}

/// No month has so many days: so the last day of each is meant.
const ALWAYS_LAST: u8 = 32;

struct Kind {
    name: &'static str,
    min: u8,
    /// The largest number that may be written; 7 for a day of week.
    max: u8,
    names: &'static [&'static str],
    /// The number of the first name.
    first_name: u8,
    allowed: &'static str,
    /// What the engine's numbers have more than ours.
    engine_adds: u8,
}

const MINUTE: Kind = Kind {
    name: "minute",
    min: 0,
    max: 59,
    names: &[],
    first_name: 0,
    allowed: "0 to 59",
    engine_adds: 0,
};

const HOUR: Kind = Kind {
    name: "hour",
    max: 23,
    allowed: "0 to 23",
    ..MINUTE
};

const DAY_OF_MONTH: Kind = Kind {
    name: "day-of-month",
    min: 1,
    max: 31,
    allowed: "1 to 31, L (the last day), and 29L, 30L or 31L (that day, or the last of a shorter month)",
    ..MINUTE
};

const MONTH: Kind = Kind {
    name: "month",
    min: 1,
    max: 12,
    names: &[
        "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
    ],
    first_name: 1,
    allowed: "1 to 12 or JAN to DEC",
    engine_adds: 0,
};

const DAY_OF_WEEK: Kind = Kind {
    name: "day-of-week",
    min: 0,
    max: 7,
    names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    first_name: 0,
    allowed: "0 to 7 (0 and 7 are Sunday) or SUN to SAT",
    // Its Sunday is 1.
    engine_adds: 1,
};

/// A field that cannot be read: which, what in it, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {field} field cannot have {item:?}: {reason}")]
pub struct FieldError {
    field: &'static str,
    item: String,
    reason: String,
}

impl Field {
    pub(super) fn minute(text: &str) -> Result<Self, FieldError> {
        Field::read(&MINUTE, text)
    }

    pub(super) fn hour(text: &str) -> Result<Self, FieldError> {
        Field::read(&HOUR, text)
    }

    pub(super) fn day_of_month(text: &str) -> Result<Self, FieldError> {
        Field::read(&DAY_OF_MONTH, text)
    }

    pub(super) fn month(text: &str) -> Result<Self, FieldError> {
        Field::read(&MONTH, text)
    }

    pub(super) fn day_of_week(text: &str) -> Result<Self, FieldError> {
        Field::read(&DAY_OF_WEEK, text)
    }

    fn read(kind: &'static Kind, text: &str) -> Result<Self, FieldError> {
        let items = text
            .split(',')
            .map(|item| kind.item(item))
            .collect::<Result<_, _>>()?;
        Ok(Field { kind, items })
    }

    /// Whether it begins with `*`; Vixie cron takes such a field for one that restricts nothing.
    pub(super) fn starred(&self) -> bool {
        matches!(self.items.first(), Some(Item::Star { .. }))
    }

    /// Whether it has more than last days.
    pub(super) fn has_numbers(&self) -> bool {
        self.bits() != 0
    }

    /// The last day of a month that has fewer days than this is meant too.
    pub(super) fn last_of_month_shorter_than(&self) -> Option<u8> {
        self.items
            .iter()
            .filter_map(|item| match item {
                Item::Last(length) => Some(*length),
                _ => None,
            })
            .max()
    }

    /// The numbered values as the engine writes them.
    pub(super) fn engine_text(&self) -> String {
        let (bits, kind) = (self.bits(), self.kind);
        let largest = if kind.max == 7 { 6 } else { kind.max };
        if (kind.min..=largest).all(|value| bits & (1 << value) != 0) {
            return "*".to_owned();
        }
        let values: Vec<String> = (kind.min..=largest)
            .filter(|value| bits & (1 << value) != 0)
            .map(|value| (value + kind.engine_adds).to_string())
            .collect();
        values.join(",")
    }

    /// The numbered values, one bit for each.
    fn bits(&self) -> u64 {
        let mut bits = 0;
        for item in &self.items {
            let (from, to, step) = match *item {
                Item::Star { step } => (self.kind.min, self.kind.max, step),
                Item::One(value) => (value, value, 1),
                Item::Range { from, to, step } => (from, to, step),
                Item::Last(ALWAYS_LAST) => continue,
                Item::Last(day) => (day, day, 1),
            };
            for value in (from..=to).step_by(usize::from(step)) {
                bits |= 1 << self.kind.folded(value);
            }
        }
        bits
    }
}

impl Kind {
    /// Sunday has two numbers.
    fn folded(&self, value: u8) -> u8 {
        if self.max == 7 && value == 7 {
            0
        } else {
            value
        }
    }

    fn item(&self, text: &str) -> Result<Item, FieldError> {
        let (base, step) = match text.split_once('/') {
            None => (text, None),
            Some((base, step)) => (base, Some(self.step(text, step)?)),
        };
        if base == "*" || base == "?" {
            return Ok(Item::Star {
                step: step.unwrap_or(1),
            });
        }
        if let Some((from, to)) = base.split_once('-') {
            let (from, to) = self.range(text, from, to)?;
            let step = step.unwrap_or(1);
            return Ok(Item::Range { from, to, step });
        }
        let item = match self.last_day(text, base)? {
            Some(day) => Item::Last(day),
            None => Item::One(self.folded(self.value(text, base)?)),
        };
        match (step, item) {
            (None, item) => Ok(item),
            (Some(_), Item::Last(_)) => Err(self.refuse(text, "a last day has no step".to_owned())),
            (Some(step), _) => Err(self.refuse(
                text,
                format!(
                    "a step needs a range or *; write {base}-{}/{step} for every {step} from {base} on",
                    self.max
                ),
            )),
        }
    }

    fn step(&self, item: &str, text: &str) -> Result<u8, FieldError> {
        number(text)
            .filter(|step| (1..=self.max).contains(step))
            .ok_or_else(|| self.refuse(item, format!("a step here is 1 to {}", self.max)))
    }

    fn range(&self, item: &str, from: &str, to: &str) -> Result<(u8, u8), FieldError> {
        let (first, mut last) = (self.value(item, from)?, self.value(item, to)?);
        // SAT-SUN: the name has no second number to write.
        if self.max == 7 && last == 0 && first > 0 && number(to).is_none() {
            last = 7;
        }
        if first <= last {
            return Ok((first, last));
        }
        let largest = if self.max == 7 { 6 } else { self.max };
        Err(self.refuse(
            item,
            format!(
                "a range goes from the smaller to the larger; write {first}-{largest},{}-{last}",
                self.min
            ),
        ))
    }

    /// `L` and the days with an `L` behind.
    fn last_day(&self, item: &str, text: &str) -> Result<Option<u8>, FieldError> {
        let Some(day) = text.strip_suffix(['L', 'l']) else {
            return Ok(None);
        };
        if self.name != DAY_OF_MONTH.name {
            return Ok(None);
        }
        match (day, number(day)) {
            ("", _) => Ok(Some(ALWAYS_LAST)),
            (_, Some(day @ 29..=31)) => Ok(Some(day)),
            _ => Err(self.refuse(item, format!("allowed are {}", self.allowed))),
        }
    }

    fn value(&self, item: &str, text: &str) -> Result<u8, FieldError> {
        let named = || {
            let at = self
                .names
                .iter()
                .position(|name| name.eq_ignore_ascii_case(text))?;
            Some(self.first_name + u8::try_from(at).ok()?)
        };
        number(text)
            .or_else(named)
            .filter(|value| (self.min..=self.max).contains(value))
            .ok_or_else(|| self.refuse(item, format!("allowed are {}", self.allowed)))
    }

    fn refuse(&self, item: &str, reason: String) -> FieldError {
        FieldError {
            field: self.name,
            item: item.to_owned(),
            reason,
        }
    }
}

/// Digits only: no sign.
fn number(text: &str) -> Option<u8> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} {} {}",
            self.minute, self.hour, self.day_of_month, self.month, self.day_of_week
        )
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, item) in self.items.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            write!(f, "{item}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match *self {
            Item::Star { step } => {
                f.write_str("*")?;
                step
            }
            Item::One(value) => return write!(f, "{value}"),
            Item::Range { from, to, step } => {
                write!(f, "{from}-{to}")?;
                step
            }
            Item::Last(ALWAYS_LAST) => return f.write_str("L"),
            Item::Last(day) => return write!(f, "{day}L"),
        };
        if step == 1 {
            return Ok(());
        }
        write!(f, "/{step}")
    }
}
