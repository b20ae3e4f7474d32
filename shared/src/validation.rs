//! Reads untrusted JSON and query parameters into types, and collects every fault on the way.

use serde_json::{Map, Value};

use crate::error::{Error, Fault};

/// A type that a JSON value can be read into, with a rule of its own.
pub trait Field: Sized {
    /// What the value must be; the message of the fault when it is not.
    const RULE: &'static str;

    /// Reads the value; `None` when it breaks the rule.
    fn read(value: Value) -> Option<Self>;
}

impl Field for bool {
    const RULE: &'static str = "must be true or false";

    fn read(value: Value) -> Option<Self> {
        value.as_bool()
    }
}

/// The fields of a JSON object, taken one by one.
///
/// Take all of them, then ask for [`Fields::finish`]: a client learns of all faults at once.
pub struct Fields {
    object: Map<String, Value>,
    faults: Vec<Fault>,
}

impl Fields {
    /// Over the object that a client sent. Fields that nobody takes are ignored.
    pub fn new(object: Map<String, Value>) -> Self {
        Self { object, faults: Vec::new() }
    }

    /// Takes a field that must be there. `None` stands for a fault that was noted.
    pub fn required<T: Field>(&mut self, field: &'static str) -> Option<T> {
        let value = self.optional(field);
        if value.is_none() && !self.faults.iter().any(|fault| fault.field == field) {
            self.faults.push(Fault { field, message: format!("is required and {}", T::RULE) });
        }
        value
    }

    /// Takes a field that may be missing. `None` stands for that, or for a fault that was noted; `null` is a
    /// fault.
    pub fn optional<T: Field>(&mut self, field: &'static str) -> Option<T> {
        let value = self.object.remove(field)?;
        let read = T::read(value);
        if read.is_none() {
            self.faults.push(Fault { field, message: T::RULE.into() });
        }
        read
    }

    /// Takes a field that may be missing or `null`, which are told apart: `None` is missing, or a fault that was
    /// noted, `Some(None)` is `null`.
    pub fn nullable<T: Field>(&mut self, field: &'static str) -> Option<Option<T>> {
        match self.object.get(field) {
            Some(Value::Null) => self.object.remove(field).map(|_| None),
            _ => self.optional(field).map(Some),
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault that was noted.
    pub fn finish(self) -> Result<(), Error> {
        if self.faults.is_empty() { Ok(()) } else { Err(Error::Invalid(self.faults)) }
    }
}

/// Reads a whole-number query parameter.
///
/// # Errors
/// A fault when it is not a plain decimal number within `range`, or is given more than once.
pub fn whole_number(
    query: &[(String, String)],
    field: &'static str,
    default: i64,
    range: std::ops::RangeInclusive<i64>,
) -> Result<i64, Fault> {
    let mut given = query.iter().filter(|(name, _)| name == field).map(|(_, value)| value);
    let value = match (given.next(), given.next()) {
        (None, _) => return Ok(default),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(Fault { field, message: "must be given once".into() }),
    };
    // `parse` alone would let "+5" pass.
    let number = value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok()).flatten();
    number.filter(|n| range.contains(n)).ok_or_else(|| Fault {
        field,
        message: match (*range.start(), *range.end()) {
            (start, i64::MAX) => format!("must be a whole number of {start} or more"),
            (start, end) => format!("must be a whole number from {start} to {end}"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        Fields::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn all_faults_are_reported_in_the_order_of_reading() {
        let mut fields = fields(json!({"b": 1, "c": null, "d": true, "e": "ignored"}));
        assert_eq!(fields.required::<bool>("a"), None);
        assert_eq!(fields.required::<bool>("b"), None);
        assert_eq!(fields.optional::<bool>("c"), None);
        assert_eq!(fields.optional::<bool>("d"), Some(true));
        let Err(Error::Invalid(faults)) = fields.finish() else { panic!("no faults") };
        let faults: Vec<_> = faults.iter().map(|f| (f.field, f.message.as_str())).collect();
        assert_eq!(faults, [("a", "is required and must be true or false"), ("b", bool::RULE), ("c", bool::RULE)]);
    }

    #[test]
    fn null_is_a_value_where_it_may_be() {
        let mut fields = fields(json!({"a": null, "b": true, "c": 1}));
        assert_eq!(fields.nullable::<bool>("a"), Some(None));
        assert_eq!(fields.nullable::<bool>("b"), Some(Some(true)));
        assert_eq!(fields.nullable::<bool>("c"), None);
        assert_eq!(fields.nullable::<bool>("d"), None);
        let Err(Error::Invalid(faults)) = fields.finish() else { panic!("no faults") };
        assert_eq!(faults.len(), 1);
    }

    fn query(value: &str) -> Vec<(String, String)> {
        vec![("limit".into(), value.into())]
    }

    #[test]
    fn numbers_are_plain_and_within_range() {
        let limit = |value: &str| whole_number(&query(value), "limit", 100, 1..=1000);
        assert_eq!(whole_number(&[], "limit", 100, 1..=1000), Ok(100));
        assert_eq!((limit("1"), limit("1000")), (Ok(1), Ok(1000)));
        for bad in ["", "0", "1001", "-1", "+5", "1.0", "1e2", " 1", "0x10", "٣", "99999999999999999999999"] {
            assert!(limit(bad).is_err(), "{bad:?}");
        }
        let twice = [query("1"), query("2")].concat();
        assert!(whole_number(&twice, "limit", 100, 1..=1000).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_number_in_range_or_a_fault(text in ".*") {
            if let Ok(number) = whole_number(&query(&text), "limit", 100, 1..=1000) {
                prop_assert!((1..=1000).contains(&number));
                prop_assert_eq!(text.trim_start_matches('0'), number.to_string());
            }
        }
    }
}
